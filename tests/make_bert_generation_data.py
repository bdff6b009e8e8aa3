"""Make tests/data/bert_generation with real TensorFlow: tiny modules with the names of TF-Hub's.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import math
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, Bert, v1

CONFIG = {
    "hidden_act": "gelu",
    "hidden_size": 24,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "vocab_size": 30,
}


class Generation(Bert):
    """Both stacks on the same embeddings; scopes are entered again where they are shared."""

    def variable(self, name, shape, around=0.0):
        values = around + self.random.normal(0, 0.15, shape)
        initializer = tf.constant_initializer(values)
        return v1.get_variable(name, shape, tf.float32, initializer)

    def embeddings(self, ids):
        hidden = CONFIG["hidden_size"]
        with v1.variable_scope("embeddings", reuse=v1.AUTO_REUSE):
            self.words = self.variable("word_embeddings", (CONFIG["vocab_size"], hidden))
            shape = (CONFIG["max_position_embeddings"], hidden)
            places = self.variable("position_embeddings", shape)
            return self.layer_norm(tf.gather(self.words, ids) + places[: ids.shape[1]])

    def attend(self, x, others, allowed, scope, output):
        """Attention of each word of `x` to those of the `others` that are `allowed`."""
        heads = CONFIG["num_attention_heads"]

        def split(y, name):
            y = tf.reshape(self.dense(y, name, x.shape[-1]), (*y.shape[:2], heads, -1))
            return tf.transpose(y, (0, 2, 1, 3))

        with v1.variable_scope(f"attention/{scope}"):
            query, key, value = split(x, "query"), split(others, "key"), split(others, "value")
        scores = query @ tf.transpose(key, (0, 1, 3, 2)) / math.sqrt(x.shape[-1] // heads)
        context = tf.nn.softmax(scores + (1.0 - allowed) * -10000.0) @ value
        context = tf.reshape(tf.transpose(context, (0, 2, 1, 3)), x.shape)
        with v1.variable_scope(f"attention/{output}"):
            return self.layer_norm(x + self.dense(context, "dense", x.shape[-1]))

    def stack(self, name, x, allowed, encoded=None, mask=None):
        for layer in range(CONFIG["num_hidden_layers"]):
            with v1.variable_scope(f"{name}/layer_{layer}", reuse=v1.AUTO_REUSE):
                x = self.attend(x, x, allowed, "self", "output")
                if encoded is not None:
                    x = self.attend(x, encoded, mask, "encdec", "encdec_output")
                inner = self.dense(x, "intermediate/dense", CONFIG["intermediate_size"])
                inner = tf.nn.gelu(inner, approximate=False)
                with v1.variable_scope("output"):
                    x = self.layer_norm(x + self.dense(inner, "dense", x.shape[-1]))
        return x


def make(name, seed, decoder):
    folder = DATA / "bert_generation" / name
    (folder / "variables").mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids = random.integers(1, CONFIG["vocab_size"], (2, 9))
    decoder_ids = random.integers(1, CONFIG["vocab_size"], (2, 6))
    mask = np.ones((2, 9), np.float32)
    mask[1, 6:] = 0
    with tf.Graph().as_default(), v1.Session() as session:
        model = Generation(seed)
        with v1.variable_scope("module/bert"):
            allowed = tf.constant(mask)[:, None, None, :]
            encoded = model.stack("encoder", model.embeddings(tf.constant(ids)), allowed)
            causal = tf.linalg.band_part(tf.ones((6, 6)), -1, 0)
            embedded = model.embeddings(tf.constant(decoder_ids))
            decoded = model.stack(decoder, embedded, causal, encoded, allowed)
            logits = decoded @ tf.transpose(model.words)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        prefix = str(folder / "variables" / "variables")
        saver.save(session, prefix, write_meta_graph=False, write_state=False)
        values = session.run({"encoded": encoded, "decoded": decoded, "logits": logits})
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=ids,
        attention_mask=mask.astype(np.int64),
        decoder_ids=decoder_ids,
        **values,
    )


if __name__ == "__main__":
    shutil.rmtree(DATA / "bert_generation", ignore_errors=True)
    make("separate", 31, "decoder")
    make("shared", 32, "encoder")
    (DATA / "bert_generation" / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
