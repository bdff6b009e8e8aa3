"""Make tests/data/roformer with bert4keras: tiny RoFormers, saved in both of its ways.

Run by hand in an environment of its own (tensorflow-cpu 2.15.1, bert4keras 0.11.5); the output is
committed.
"""

import json
import os
import shutil
from pathlib import Path

os.environ["TF_KERAS"] = "1"

import keras
import numpy as np
import tensorflow as tf

tf.keras = keras  # bert4keras cannot import the lazy one
tf.compat.v1.disable_eager_execution()  # with which, and without these, it cannot save
tf.Session, tf.train.Saver = tf.compat.v1.Session, tf.compat.v1.train.Saver
from bert4keras.models import build_transformer_model  # noqa: E402

DATA = Path(__file__).resolve().parent / "data" / "roformer"
CONFIG = {
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 12,
    "initializer_range": 0.02,
    "intermediate_size": 9,
    "max_position_embeddings": 16,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 20,
}


def fresh(name, **changes):
    folder = DATA / name
    folder.mkdir(parents=True)
    (folder / "bert_config.json").write_text(json.dumps(CONFIG | changes, indent=2) + "\n")
    return folder, str(folder / "bert_config.json")


def randomize(model, seed):
    """Values that differ in every variable, norms around one."""
    random = np.random.default_rng(seed)
    model.set_weights(
        [
            random.normal(0, 0.3, value.shape) + ("gamma" in variable.name)
            for value, variable in zip(model.get_weights(), model.weights, strict=True)
        ]
    )


def keep_outputs(model, folder, name, segments=True):
    """What the model computes: `name` is its last output's for transformers."""
    random = np.random.default_rng(5)
    inputs = {"input_ids": random.integers(1, CONFIG["vocab_size"], (2, 12))}
    inputs["input_ids"][1, 9:] = 0
    if segments:
        inputs["token_type_ids"] = (np.arange(12) > 4).astype(np.int64)[None].repeat(2, 0)
    values = model.predict([*inputs.values()] if segments else inputs["input_ids"])
    values = values[-1] if isinstance(values, list) else values
    mask = (inputs["input_ids"] > 0).astype(np.int64)
    np.savez_compressed(
        folder / "forward.npz", **inputs, attention_mask=mask, **{f"output_{name}": values}
    )


def make():
    shutil.rmtree(DATA, ignore_errors=True)
    folder, path = fresh("projected", embedding_size=8)
    built = build_transformer_model(
        path, model="roformer", with_nsp=True, with_mlm="linear", return_keras_model=False
    )
    randomize(built.model, 1)
    keep_outputs(built.model, folder, "logits")
    built.save_weights_as_checkpoint(str(folder / "bert_model.ckpt"))

    folder, path = fresh("decoder")
    built = build_transformer_model(
        path,
        model="roformer",
        application="lm",
        segment_vocab_size=0,
        with_mlm="linear",
        return_keras_model=False,
    )
    randomize(built.model, 2)
    keep_outputs(built.model, folder, "logits", segments=False)
    built.save_weights_as_checkpoint(str(folder / "bert_model.ckpt"))

    folder, path = fresh("keras")  # whose counter of layers the others have moved
    model = build_transformer_model(path, model="roformer", with_pool=True, with_mlm="linear")
    randomize(model, 3)
    keep_outputs(model, folder, "logits")
    model.save_weights(str(folder / "model.weights"))

    folder, path = fresh("labels")
    model = build_transformer_model(path, model="roformer")
    model = keras.Model(model.inputs, keras.layers.Dense(5)(model.output))
    randomize(model, 4)
    keep_outputs(model, folder, "logits")
    model.save_weights(str(folder / "model.weights"))
    for file in DATA.glob("*/checkpoint"):
        file.unlink()
    for file in DATA.glob("*/*.meta"):
        file.unlink()


make()
