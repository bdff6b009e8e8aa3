"""Make tests/data/bert_dialects with other authors' BERTs: bert4keras, bert-for-tf2, PyTorch's.

Run by hand in an environment of its own (tensorflow-cpu 2.15.1, bert4keras 0.11.5; bert-for-tf2
0.14.9, params-flow 0.8.2 and py-params 0.10.2, whose `tensorflow.python.keras` has to be spelled
`tensorflow.keras` with so new a TensorFlow); the output is committed.
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
import bert  # noqa: E402
from bert4keras.models import build_transformer_model  # noqa: E402

DATA = Path(__file__).resolve().parent / "data" / "bert_dialects"
CONFIG = {
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 6,
    "intermediate_size": 9,
    "max_position_embeddings": 8,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 20,
}


def fresh(name, config, file="bert_config.json"):
    folder = DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / file).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def randomize(model, seed):
    """Values that differ in every variable, norms around one."""
    random = np.random.default_rng(seed)
    model.set_weights(
        [
            random.normal(0, 0.3, value.shape) + ("gamma" in variable.name)
            for value, variable in zip(model.get_weights(), model.weights, strict=True)
        ]
    )


def save(model, folder, outputs, segments=True):
    """The weights, and what the model computes: `outputs` names its outputs for transformers."""
    random = np.random.default_rng(5)
    inputs = {"input_ids": random.integers(1, CONFIG["vocab_size"], (2, 8))}
    if segments:
        inputs["token_type_ids"] = (np.arange(8) > 4).astype(np.int64)[None].repeat(2, 0)
    values = model(list(inputs.values()) if segments else inputs["input_ids"])
    values = values if isinstance(values, list) else [values]
    named = {f"output_{name}": value.numpy() for name, value in zip(outputs, values, strict=True)}
    np.savez_compressed(folder / "forward.npz", **inputs, **named)
    model.save_weights(str(folder / "model.ckpt"))


def make_bert4keras():
    config = CONFIG
    folder = fresh("bert4keras_pretraining", config)
    path = str(folder / "bert_config.json")
    build_transformer_model(path)  # moves the session's counter of layers
    model = build_transformer_model(path, with_nsp="linear", with_mlm="linear")
    randomize(model, 1)
    model.get_layer("NSP-Proba").activation = keras.activations.linear
    save(model, folder, ["seq_relationship_logits", "prediction_logits"])

    folder = fresh("bert4keras_classifier", config)
    base = build_transformer_model(path, with_pool=True)
    model = keras.Model(base.inputs, keras.layers.Dense(3)(base.output))
    randomize(model, 2)
    save(model, folder, ["logits"])


def make_bert_for_tf2(name, seed, segments=False, **options):
    parameters = bert.BertModelLayer.Params(
        vocab_size=CONFIG["vocab_size"],
        use_token_type=segments,
        token_type_vocab_size=2,
        num_layers=CONFIG["num_hidden_layers"],
        hidden_size=CONFIG["hidden_size"],
        hidden_dropout=0.0,
        attention_dropout=0.0,
        num_heads=CONFIG["num_attention_heads"],
        intermediate_size=CONFIG["intermediate_size"],
        intermediate_activation="gelu",
        max_position_embeddings=CONFIG["max_position_embeddings"],
        **options,
    )
    layer = bert.BertModelLayer.from_params(parameters, name=f"bert_{seed}")
    inputs = [keras.layers.Input((8,), dtype="int32") for _ in range(1 + segments)]
    model = keras.Model(inputs, layer(inputs if segments else inputs[0]))
    randomize(model, seed)
    embedding = {key: options[key] for key in ["embedding_size"] if key in options}
    file = "albert_config.json" if embedding else "bert_config.json"
    folder = fresh(name, {**CONFIG, "hidden_act": "gelu_new", **embedding}, file)
    save(model, folder, ["last_hidden_state"], segments)


if __name__ == "__main__":
    make_bert4keras()
    make_bert_for_tf2("bert_for_tf2", 4)
    make_bert_for_tf2("bert_for_tf2_shared", 6, segments=True, shared_layer=True)
    make_bert_for_tf2("bert_for_tf2_albert", 7, True, shared_layer=True, embedding_size=4)
