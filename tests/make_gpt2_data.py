"""Make tests/data/gpt2 with real TensorFlow: a tiny GPT-2 with the original's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

DATA = Path(__file__).resolve().parent / "data" / "gpt2"
v1 = tf.compat.v1
HPARAMS = {"n_vocab": 40, "n_ctx": 16, "n_embd": 12, "n_head": 3, "n_layer": 2}


class Gpt2:
    """The forward pass: layer norms first, one matrix for queries, keys and values."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def variable(self, name, shape, around=0.0):
        values = around + self.random.normal(0, 0.2, shape)
        return v1.get_variable(name, initializer=tf.constant(values, tf.float32))

    def conv1d(self, x, scope, outputs):
        with v1.variable_scope(scope):
            w = self.variable("w", (1, x.shape[-1], outputs))
            return tf.einsum("bli,io->blo", x, w[0]) + self.variable("b", (outputs,))

    def norm(self, x, scope):
        with v1.variable_scope(scope):
            g = self.variable("g", (x.shape[-1],), 1.0)
            b = self.variable("b", (x.shape[-1],))
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-5) * g + b

    def attention(self, x):
        batch, length, size = x.shape
        heads = HPARAMS["n_head"]

        def split(y):
            return tf.transpose(tf.reshape(y, (batch, length, heads, -1)), (0, 2, 1, 3))

        query, key, value = map(split, tf.split(self.conv1d(x, "c_attn", 3 * size), 3, -1))
        scores = query @ tf.transpose(key, (0, 1, 3, 2)) / math.sqrt(size // heads)
        mask = tf.linalg.band_part(tf.ones((length, length)), -1, 0)
        context = tf.nn.softmax(scores * mask - 1e10 * (1 - mask)) @ value
        joined = tf.reshape(tf.transpose(context, (0, 2, 1, 3)), x.shape)
        return self.conv1d(joined, "c_proj", size)

    def logits(self, ids):
        size = HPARAMS["n_embd"]
        with v1.variable_scope("model"):
            words = self.variable("wte", (HPARAMS["n_vocab"], size))
            places = self.variable("wpe", (HPARAMS["n_ctx"], size))
            x = tf.gather(words, ids) + places[: ids.shape[1]]
            for layer in range(HPARAMS["n_layer"]):
                with v1.variable_scope(f"h{layer}"):
                    normed = self.norm(x, "ln_1")
                    with v1.variable_scope("attn"):
                        x += self.attention(normed)
                    normed = self.norm(x, "ln_2")
                    with v1.variable_scope("mlp"):
                        inner = tf.nn.gelu(self.conv1d(normed, "c_fc", 4 * size), approximate=True)
                        x += self.conv1d(inner, "c_proj", size)
            return tf.einsum("blh,vh->blv", self.norm(x, "ln_f"), words)


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    ids = np.random.default_rng(1).integers(0, HPARAMS["n_vocab"], (2, 9))
    with tf.Graph().as_default(), v1.Session() as session:
        logits = Gpt2(2).logits(tf.constant(ids))
        step = v1.train.AdamOptimizer(0.01).minimize(tf.reduce_mean(tf.square(logits)))
        session.run(v1.global_variables_initializer())
        session.run(step)
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(DATA / "model"), global_step=7, write_meta_graph=False)
        np.savez_compressed(DATA / "forward.npz", input_ids=ids, logits=session.run(logits))
    (DATA / "hparams.json").write_text(json.dumps(HPARAMS))
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["\u0120", "\u0120t", "he", "\u0120the"]
    words = [*letters, *pieces, *(f"[{i}]" for i in range(9)), "<|endoftext|>"]
    (DATA / "encoder.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (DATA / "vocab.bpe").write_text("#version: 0.2\n\u0120 t\nh e\n\u0120t he\n", "utf-8")


if __name__ == "__main__":
    main()
