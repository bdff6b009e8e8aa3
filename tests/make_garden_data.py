"""Make tests/data/garden with the TensorFlow Model Garden: tiny encoders in the forms it saves.

Run by hand in an environment of its own (see make_data.py) that also has, without what they depend
on, tf-models-official 2.15.0, gin-config and scipy, and wrapt 1.14.1 and typing-extensions 4.5.0,
without which SavedModels of dictionaries fail. The output is committed.
"""

import shutil

import numpy as np
import tensorflow as tf
import yaml
from make_data import DATA
from official.modeling import optimization, tf_utils
from official.nlp.modeling import layers, models, networks

FOLDER = DATA / "garden"
SIZES = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "num_attention_heads": 3,
    "num_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 37,
}
RANDOM = np.random.default_rng(11)
IDS = RANDOM.integers(0, SIZES["vocab_size"], (2, 9))
MASK = (np.arange(9) < np.array([[9], [6]])).astype(int)
SEGMENTS = (np.arange(9) > 4).astype(int)[None].repeat(2, 0)
INPUTS = {
    "input_word_ids": tf.constant(IDS, tf.int32),
    "input_mask": tf.constant(MASK, tf.int32),
    "input_type_ids": tf.constant(SEGMENTS, tf.int32),
}
POSITIONS = tf.constant(np.arange(9)[None].repeat(2, 0), tf.int32)
GELU = tf_utils.get_activation("gelu")


def encoder(make, **options):
    renamed = {**SIZES, "max_sequence_length": SIZES["max_position_embeddings"]}
    del renamed["max_position_embeddings"]
    return make(**renamed, activation=GELU, dict_outputs=True, **options)


def randomise(model, run):
    """Random values for all variables, which `run` makes."""
    run(model)
    for variable in model.variables:
        around = 1.0 if "gamma" in variable.name else 0.0
        variable.assign(RANDOM.normal(around, 0.3, variable.shape))


def pretrained(model):
    inputs = {**INPUTS, "masked_lm_positions": POSITIONS}
    if not isinstance(model.inputs, dict):
        inputs = [inputs[each.name] for each in model.inputs]
    wanted = ("sequence_output", "mlm_logits", "next_sentence")
    return {name: value for name, value in model(inputs).items() if name in wanted}


def classified(model):
    return {"logits": model(INPUTS)}


def pretrainer(made, *heads):
    """A model for pre-training, with heads of those names and numbers of classes."""
    hidden = SIZES["hidden_size"]
    heads = [layers.ClassificationHead(hidden, n, name=name) for name, n in heads]
    return models.BertPretrainerV2(made, mlm_activation=GELU, classification_heads=heads)


def save(name, outputs, kind=None, **objects):
    """A checkpoint of these objects, what the model gives, and the trainer's params.yaml."""
    folder = FOLDER / name
    tf.train.Checkpoint(**objects).write(str(folder / "ckpt-1"))
    keep(folder, outputs)
    if kind is not None:
        params = {**SIZES, "hidden_activation": "gelu", "dropout_rate": 0.1}
        width = {"embedding_width": 8} if kind == "albert" else {"norm_first": False}
        model = {"encoder": {"type": kind, kind: params | width}}
        (folder / "params.yaml").write_text(yaml.safe_dump({"task": {"model": model}}))


def keep(folder, outputs):
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=IDS,
        attention_mask=MASK,
        token_type_ids=SEGMENTS,
        **{f"output_{name}": np.asarray(value) for name, value in outputs.items()},
    )


def export(name, model, outputs):
    """A SavedModel without its graph, which is large and which nothing here reads."""
    folder = FOLDER / name
    model.save(folder)
    for unused in ("saved_model.pb", "fingerprint.pb"):
        (folder / unused).unlink()
    shutil.rmtree(folder / "assets")
    keep(folder, outputs)


def inputs():
    return {name: tf.keras.Input((None,), dtype=tf.int32, name=name) for name in INPUTS}


def core(made):
    """The encoder as a model that takes its inputs by name, as TF-Hub's modules do."""
    named = inputs()
    found = made(named if isinstance(made.inputs, dict) else [named[i.name] for i in made.inputs])
    kept = {key: found[key] for key in ("pooled_output", "sequence_output")}
    return tf.keras.Model(named, kept, name="encoder")


def save_averages(name, model):
    """A checkpoint after one step of training, and what its averages give."""
    optimizer = optimization.ExponentialMovingAverage(
        tf.keras.optimizers.legacy.Adam(0.1), average_decay=0.5
    )
    optimizer.shadow_copy(model)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(INPUTS) ** 2)
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    raw = [variable.numpy() for variable in variables]
    for variable in variables:
        variable.assign(optimizer.get_slot(variable, "average"))
    outputs = classified(model)
    for variable, value in zip(variables, raw, strict=True):
        variable.assign(value)
    save(name, outputs, "bert", model=model, optimizer=optimizer)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)

    model = pretrainer(encoder(networks.BertEncoder), ("topic", 5), ("next_sentence", 2))
    randomise(model, pretrained)
    save("pretraining", pretrained(model), "bert", model=model, **model.checkpoint_items)
    model = pretrainer(encoder(networks.AlbertEncoder, embedding_width=8), ("next_sentence", 2))
    randomise(model, pretrained)
    save("albert", pretrained(model), "albert", model=model)

    for name, pooler in (("classifier", False), ("classifier_of_encoder", True)):
        made = encoder(networks.BertEncoderV2)
        model = models.BertClassifier(made, 3, head_name="mood", use_encoder_pooler=pooler)
        randomise(model, classified)
        save(name, classified(model), "bert", model=model)
    save_averages("averages", model)

    named = inputs()
    pooled = core(encoder(networks.BertEncoder))(named)["pooled_output"]
    logits = tf.keras.layers.Dense(4, name="mood")(tf.keras.layers.Dropout(0.1)(pooled))
    model = tf.keras.Model(named, logits)
    randomise(model, classified)
    export("tutorial", model, classified(model))
    model = core(encoder(networks.BertEncoder, norm_first=True))
    randomise(model, lambda model: model(INPUTS))
    export("norm_first", model, model(INPUTS))


if __name__ == "__main__":
    main()
