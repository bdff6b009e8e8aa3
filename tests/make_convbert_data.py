"""Make tests/data/convbert with real TensorFlow: tiny ConvBERTs with the original's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import math
import shutil

import tensorflow as tf
from make_data import DATA, v1
from make_electra_data import FULL, SMALL, Electra, fine_tuned, make

WIDTH = 5
HPARAMS = {
    "conv_kernel_size": WIDTH,
    "embedding_size": 16,
    "generator_hidden_size": 0.5,
    "linear_groups": 1,
    "model_size": "base",
    "vocab_size": 30,
}


class ConvBert(Electra):
    """ConvBERT's layers in ELECTRA's scopes."""

    groups = 1

    def encoder(self, scope, sizes, x, mask):
        with v1.variable_scope(scope):
            if x.shape[-1] != sizes["hidden_size"]:
                x = self.dense(x, "embeddings_project", sizes["hidden_size"])
            for layer in range(sizes["num_hidden_layers"]):
                with v1.variable_scope(f"encoder/layer_{layer}"):
                    with v1.variable_scope("attention/self"):
                        attended = self.mixed(x, mask, sizes["num_attention_heads"])
                    with v1.variable_scope("attention/output"):
                        x = self.layer_norm(x + self.dense(attended, "dense", x.shape[-1]))
                    with v1.variable_scope("intermediate"):
                        inner = self.inner(x, sizes["intermediate_size"])
                    with v1.variable_scope("output"):
                        inner = tf.nn.gelu(inner, approximate=False)
                        x = self.layer_norm(x + self.inner(inner, x.shape[-1]))
        return x

    def inner(self, x, outputs):
        """Each part of the outputs of the same part of the inputs alone."""
        if self.groups == 1:
            return self.dense(x, "dense", outputs)
        with v1.variable_scope("g_dense"):
            inputs = x.shape[-1] // self.groups
            kernel = self.variable("kernel", (self.groups, inputs, outputs // self.groups))
            parts = enumerate(tf.split(x, self.groups, -1))
            made = tf.concat([part @ kernel[i] for i, part in parts], -1)
            return made + self.variable("bias", (outputs,))

    def mixed(self, x, mask, heads):
        """Half of the heads attend; in place of the others are as many dynamic convolutions."""
        batch, length, hidden = x.shape
        size, heads = hidden // heads, heads // 2
        half = size * heads
        query, key, value = (self.dense(x, name, half) for name in ("query", "key", "value"))
        with v1.variable_scope("conv_attn_key"):
            filters = self.variable("depthwise_kernel", (WIDTH, hidden, 1))[..., 0]
            mixing = self.variable("pointwise_kernel", (1, hidden, half))[0]
            bias = self.variable("bias", (half,))
        span = tf.einsum("wbth,wh->bth", windows(x), filters) @ mixing + bias
        weights = self.dense(span * query, "conv_attn_kernel", heads * WIDTH)
        weights = tf.nn.softmax(tf.reshape(weights, (batch, length, heads, WIDTH)))
        point = windows(self.dense(x, "conv_attn_point", half))
        point = tf.reshape(point, (WIDTH, batch, length, heads, size))
        convolved = tf.einsum("wbths,bthw->bths", point, weights)
        split = (tf.reshape(y, (batch, length, heads, size)) for y in (query, key, value))
        query, key, value = split
        scores = tf.einsum("bqhs,bkhs->bhqk", query, key) / math.sqrt(size)
        scores += (1.0 - mask[:, None, None, :]) * -10000.0
        attended = tf.einsum("bhqk,bkhs->bqhs", tf.nn.softmax(scores), value)
        return tf.reshape(tf.concat([attended, convolved], 2), x.shape)


class Grouped(ConvBert):
    groups = 2


def windows(x):
    """[WIDTH, batch, length, size]: what stands so far before or behind each word, or zeros."""
    beside, length = WIDTH // 2, x.shape[1]
    padded = tf.pad(x, [[0, 0], [beside, beside], [0, 0]])
    return tf.stack([padded[:, i : i + length] for i in range(WIDTH)])


def pretraining(model, ids, segments, mask):
    words, embedded = model.embeddings("electra", HPARAMS["embedding_size"], ids, segments)
    sequence = model.encoder("electra", FULL, embedded, mask)
    model.discriminator(sequence)
    generated = model.encoder("generator", SMALL, embedded, mask)
    return {
        "ConvBertModel.last_hidden_state": sequence,
        "ConvBertForMaskedLM.logits": model.generator(generated, words),
    }


def tasks(model, ids, segments, mask):
    outputs = fine_tuned(model, ids, segments, mask).items()
    return {key.replace("Electra", "ConvBert"): values for key, values in outputs}


if __name__ == "__main__":
    shutil.rmtree(DATA / "convbert", ignore_errors=True)
    FULL.update(num_attention_heads=4, num_hidden_layers=1)
    SMALL.update(num_attention_heads=2, num_hidden_layers=1)
    hparams = {**HPARAMS, "model_hparam_overrides": FULL}
    make("convbert/pretraining", 5, pretraining, hparams, ConvBert)
    other = {"embedding_size": 24, "linear_groups": 2, "model_size": "medium-small"}
    make("convbert/fine_tuned", 6, tasks, hparams | other, Grouped)
