"""Make tests/data/albert with real TensorFlow: tiny ALBERTs with the original's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import math
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, Bert, v1

CONFIG = {
    "embedding_size": 8,
    "hidden_act": "gelu",
    "hidden_size": 12,
    "inner_group_num": 1,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
    "num_attention_heads": 3,
    "num_hidden_groups": 2,
    "num_hidden_layers": 4,
    "type_vocab_size": 2,
    "vocab_size": 30,
}


class Albert(Bert):
    """ALBERT's forward pass: factorised embeddings, layers that share their group's weights."""

    def norm(self, x, scope):
        with v1.variable_scope(scope):
            beta = self.variable("beta", (x.shape[-1],))
            gamma = self.variable("gamma", (x.shape[-1],), 1.0)
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-12) * gamma + beta

    def embeddings(self, ids, segments):
        size = CONFIG["embedding_size"]
        with v1.variable_scope("bert/embeddings"):
            self.words = self.variable("word_embeddings", (CONFIG["vocab_size"], size))
            types = self.variable("token_type_embeddings", (CONFIG["type_vocab_size"], size))
            places = self.variable("position_embeddings", (CONFIG["max_position_embeddings"], size))
            x = tf.gather(self.words, ids) + tf.gather(types, segments)
            return self.norm(x + places[: ids.shape[1]], "LayerNorm")

    def attention(self, x, mask):
        batch, length, hidden = x.shape
        heads = CONFIG["num_attention_heads"]

        def split(name):
            y = tf.reshape(self.dense(x, name, hidden), (batch, length, heads, -1))
            return tf.transpose(y, (0, 2, 1, 3))

        with v1.variable_scope("attention_1/self"):
            query, key, value = split("query"), split("key"), split("value")
        scores = query @ tf.transpose(key, (0, 1, 3, 2)) / math.sqrt(hidden // heads)
        context = tf.nn.softmax(scores + (1.0 - mask[:, None, None, :]) * -10000.0) @ value
        with v1.variable_scope("attention_1/output"):
            return self.dense(
                tf.reshape(tf.transpose(context, (0, 2, 1, 3)), x.shape), "dense", hidden
            )

    def layer(self, x, mask):
        x = self.norm(x + self.attention(x, mask), "LayerNorm")
        with v1.variable_scope("ffn_1/intermediate"):
            inner = self.dense(x, "dense", CONFIG["intermediate_size"])
            inner = tf.nn.gelu(inner, approximate=False)
            with v1.variable_scope("output"):
                output = self.dense(inner, "dense", CONFIG["hidden_size"])
        return self.norm(x + output, "LayerNorm_1")

    def encoder(self, x, mask):
        layers, groups = CONFIG["num_hidden_layers"], CONFIG["num_hidden_groups"]
        with v1.variable_scope("bert/encoder"):
            x = self.dense(x, "embedding_hidden_mapping_in", CONFIG["hidden_size"])
            for layer in range(layers):
                scope = f"transformer/group_{layer * groups // layers}/inner_group_0"
                with v1.variable_scope(scope, reuse=v1.AUTO_REUSE):
                    x = self.layer(x, mask)
        return x

    def pretraining(self, sequence, pooled):
        with v1.variable_scope("cls/predictions"):
            with v1.variable_scope("transform"):
                x = self.dense(sequence, "dense", CONFIG["embedding_size"])
                x = self.norm(tf.nn.gelu(x, approximate=False), "LayerNorm")
            bias = self.variable("output_bias", (CONFIG["vocab_size"],))
            predictions = tf.einsum("ble,ve->blv", x, self.words) + bias
        with v1.variable_scope("cls/seq_relationship"):
            weights = self.variable("output_weights", (2, CONFIG["hidden_size"]))
            order = tf.matmul(pooled, weights, transpose_b=True)
            return {
                "prediction_logits": predictions,
                "sop_logits": order + self.variable("output_bias", (2,)),
            }

    def pooled(self, sequence):
        with v1.variable_scope("bert/pooler"):
            return tf.tanh(self.dense(sequence[:, 0], "dense", CONFIG["hidden_size"]))


def make(folder, scope, seed):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids = random.integers(0, CONFIG["vocab_size"], (2, 10))
    mask = np.ones((2, 10), np.float32)
    mask[1, 7:] = 0
    segments = (np.arange(10) > 5).astype(np.int64)[None].repeat(2, 0)
    with tf.Graph().as_default(), v1.Session() as session:
        model = Albert(seed)
        with v1.variable_scope(scope) if scope else tf.name_scope("plain"):
            x = model.embeddings(tf.constant(ids), tf.constant(segments))
            sequence = model.encoder(x, tf.constant(mask))
            outputs = model.pretraining(sequence, model.pooled(sequence))
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt-best"), write_meta_graph=False)
        values = session.run(outputs)
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=ids,
        attention_mask=mask.astype(np.int64),
        token_type_ids=segments,
        **{f"output_{name}": value for name, value in values.items()},
    )
    (folder / "albert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    shutil.rmtree(DATA / "albert", ignore_errors=True)
    make(DATA / "albert" / "pretraining", None, 1)
    make(DATA / "albert" / "hub", "module", 2)
