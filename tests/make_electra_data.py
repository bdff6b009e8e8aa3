"""Make tests/data/electra with real TensorFlow: tiny ELECTRAs with the original's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, Bert, v1

HPARAMS = {
    "embedding_size": 16,
    "generator_hidden_size": 0.5,
    "generator_layers": 0.5,
    "model_hparam_overrides": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "max_position_embeddings": 20,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
    },
    "model_size": "base",
    "vocab_size": 30,
}
FULL = HPARAMS["model_hparam_overrides"]
# As run_pretraining.py makes them of the fractions: a head for each 64 of hidden_size.
SMALL = FULL | {
    "hidden_size": 12,
    "intermediate_size": 48,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
}


class Electra(Bert):
    """ELECTRA's forward pass; scopes may be entered again, for variables that are shared."""

    def variable(self, name, shape, around=0.0):
        values = around + self.random.normal(0, 0.15, shape)
        initializer = tf.constant_initializer(values)
        return v1.get_variable(name, shape, tf.float32, initializer)

    def embeddings(self, scope, size, ids, segments):
        with v1.variable_scope(f"{scope}/embeddings", reuse=v1.AUTO_REUSE):
            words = self.variable("word_embeddings", (HPARAMS["vocab_size"], size))
            types = self.variable("token_type_embeddings", (2, size))
            places = self.variable("position_embeddings", (FULL["max_position_embeddings"], size))
            x = tf.gather(words, ids) + tf.gather(types, segments) + places[: ids.shape[1]]
            return words, self.layer_norm(x)

    def encoder(self, scope, sizes, x, mask):
        with v1.variable_scope(scope, reuse=v1.AUTO_REUSE):
            if x.shape[-1] != sizes["hidden_size"]:
                x = self.dense(x, "embeddings_project", sizes["hidden_size"])
            for layer in range(sizes["num_hidden_layers"]):
                with v1.variable_scope(f"encoder/layer_{layer}"):
                    x = self.attention(x, mask, sizes["num_attention_heads"])
                    inner = self.dense(x, "intermediate/dense", sizes["intermediate_size"])
                    inner = tf.nn.gelu(inner, approximate=False)
                    with v1.variable_scope("output"):
                        x = self.layer_norm(x + self.dense(inner, "dense", x.shape[-1]))
        return x

    def discriminator(self, x):
        with v1.variable_scope("discriminator_predictions"):
            x = tf.nn.gelu(self.dense(x, "dense", x.shape[-1]), approximate=False)
            return self.dense(x, "dense_1", 1)[..., 0]

    def generator(self, x, words):
        with v1.variable_scope("generator_predictions"):
            x = tf.nn.gelu(self.dense(x, "dense", words.shape[-1]), approximate=False)
            x = self.layer_norm(x)
            bias = self.variable("output_bias", (HPARAMS["vocab_size"],))
            return x @ tf.transpose(words) + bias


def pretraining(model, ids, segments, mask, untied=True, untied_embeddings=False):
    size = HPARAMS["embedding_size"]
    words, embedded = model.embeddings("electra", size, ids, segments)
    sequence = model.encoder("electra", FULL, embedded, mask)
    outputs = {"ElectraForPreTraining.logits": model.discriminator(sequence)}
    if untied_embeddings:
        words, embedded = model.embeddings("generator", SMALL["hidden_size"], ids, segments)
    if untied:
        sequence = model.encoder("generator", SMALL, embedded, mask)
    return outputs | {"ElectraForMaskedLM.logits": model.generator(sequence, words)}


def fine_tuned(model, ids, segments, mask):
    """Two tasks on one encoder whose embeddings are as wide as its layers."""
    _, embedded = model.embeddings("electra", FULL["hidden_size"], ids, segments)
    sequence = model.encoder("electra", FULL, embedded, mask)
    with v1.variable_scope("task_specific/chunk"):
        labels = model.dense(sequence, "dense", 5)
    with v1.variable_scope("task_specific/squadv1"):
        starts, ends = model.dense(sequence, "dense", 1), model.dense(sequence, "dense_1", 1)
    return {
        "ElectraForTokenClassification.logits": labels,
        "ElectraForQuestionAnswering.start_logits": starts[..., 0],
        "ElectraForQuestionAnswering.end_logits": ends[..., 0],
    }


def make(name, seed, build, hparams=HPARAMS, model=Electra, **options):
    folder = DATA / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids = random.integers(0, HPARAMS["vocab_size"], (2, 10))
    mask = np.ones((2, 10), np.float32)
    mask[1, 7:] = 0
    segments = (np.arange(10) > 5).astype(np.int64)[None].repeat(2, 0)
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = map(tf.constant, (ids, segments, mask))
        outputs = build(model(seed), *inputs, **options)
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt-3"), write_meta_graph=False)
        values = session.run(outputs)
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=ids,
        attention_mask=mask.astype(np.int64),
        token_type_ids=segments,
        **values,
    )
    (folder / "hparams.json").write_text(json.dumps(hparams, indent=2) + "\n")


if __name__ == "__main__":
    shutil.rmtree(DATA / "electra", ignore_errors=True)
    make("electra/pretraining", 1, pretraining)
    untied = HPARAMS | {"untied_generator_embeddings": True}
    make("electra/untied", 2, pretraining, untied, untied_embeddings=True)
    make("electra/tied", 3, pretraining, HPARAMS | {"untied_generator": False}, untied=False)
    wide = {key: HPARAMS[key] for key in ("model_hparam_overrides", "model_size", "vocab_size")}
    make("electra/fine_tuned", 4, fine_tuned, wide)
