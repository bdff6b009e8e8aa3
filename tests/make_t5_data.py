"""Make tests/data/t5 with real TensorFlow: tiny T5s with the variable names of Mesh TensorFlow.

Run by hand in an environment of its own (see make_data.py); the output is committed. `v10` is the
first release's form (plain feed-forward, tied logits), `v11` the later one (gated, own logits, and
heads as an axis), `shared` has one stack for both.
"""

import math
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

DATA = Path(__file__).resolve().parent / "data" / "t5"
v1 = tf.compat.v1
VOCAB, D_MODEL, D_FF, HEADS, D_KV, BUCKETS, DISTANCE = 32, 12, 10, 2, 4, 8, 128


def bucket(relative, bidirectional):
    """The bucket of a key's position relative to its query's, as in the T5 paper's code."""
    half = BUCKETS // 2 if bidirectional else BUCKETS
    start = np.where(relative > 0, half, 0) if bidirectional else 0
    distance = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    exact = half // 2
    scale = (half - exact) / math.log(DISTANCE / exact)
    far = exact + (np.log(np.maximum(distance, 1) / exact) * scale).astype(int)
    return start + np.where(distance < exact, distance, np.minimum(far, half - 1))


class T5:
    def __init__(self, seed, gated, heads_apart, shared_stack):
        self.random = np.random.default_rng(seed)
        self.gated, self.heads_apart, self.shared_stack = gated, heads_apart, shared_stack
        self.norm_name = "rms_norm" if gated else "layer_norm"

    def variable(self, name, shape, around=0.0):
        values = around + self.random.normal(0, 0.3, shape)
        return v1.get_variable(name, initializer=tf.constant(values, tf.float32))

    def norm(self, x, name=None):
        with v1.variable_scope(name or self.norm_name):
            scale = self.variable("scale", (D_MODEL,), 1.0)
        return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6) * scale

    def attention(self, x, memory, kind, bias):
        with v1.variable_scope(kind):
            inner = (HEADS, D_KV) if self.heads_apart else (HEADS * D_KV,)

            def split(name, source):
                kernel = tf.reshape(self.variable(name, (D_MODEL, *inner)), (D_MODEL, HEADS, D_KV))
                return tf.einsum("bld,dhk->bhlk", source, kernel)

            query, key, value = split("q", x), split("k", memory), split("v", memory)
            scores = tf.einsum("bhqk,bhmk->bhqm", query, key)
            context = tf.nn.softmax(scores + (0 if bias is None else bias)) @ value
            out = tf.reshape(self.variable("o", (*inner, D_MODEL)), (HEADS, D_KV, D_MODEL))
            return tf.einsum("bhqk,hkd->bqd", context, out)

    def feed_forward(self, x):
        with v1.variable_scope("DenseReluDense"):

            def kernel(name, shape):
                return self.variable(f"{name}/kernel", shape)

            if self.gated:
                inner = tf.nn.gelu(x @ kernel("wi_0", (D_MODEL, D_FF)), approximate=True)
                inner *= x @ kernel("wi_1", (D_MODEL, D_FF))
            else:
                inner = tf.nn.relu(x @ kernel("wi", (D_MODEL, D_FF)))
            return inner @ kernel("wo", (D_FF, D_MODEL))

    def stack(self, x, name, layers, memory):
        length = x.shape[1]
        is_decoder = memory is not None
        relative = np.arange(length)[None] - np.arange(length)[:, None]
        scope = "decoder" if self.shared_stack else name
        names = ["self_attention", "enc_dec_attention", "dense_relu_dense"]
        if not self.shared_stack:
            names = ["layer_000", "layer_001", "layer_002" if is_decoder else "layer_001"]
        with v1.variable_scope(scope, reuse=tf.compat.v1.AUTO_REUSE if self.shared_stack else None):
            for i in range(layers):
                with v1.variable_scope(f"block_{i:03d}"):
                    with v1.variable_scope(names[0]):
                        if i == 0:
                            with v1.variable_scope("SelfAttention"):
                                table = self.variable("relative_attention_bias", (HEADS, BUCKETS))
                            bias = tf.gather(table, bucket(relative, not is_decoder), axis=1)[None]
                            if is_decoder:
                                bias += tf.constant(np.where(relative > 0, -1e9, 0), tf.float32)
                        normed = self.norm(x)
                        x += self.attention(normed, normed, "SelfAttention", bias)
                    if is_decoder:
                        with v1.variable_scope(names[1]):
                            x += self.attention(self.norm(x), memory, "EncDecAttention", None)
                    with v1.variable_scope(names[2]):
                        x += self.feed_forward(self.norm(x))
            return self.norm(x, self.norm_name if self.gated else "final_layer_norm")

    def logits(self, ids, targets):
        with v1.variable_scope("shared"):
            words = self.variable("embedding", (VOCAB, D_MODEL))
        encoded = self.stack(tf.gather(words, ids), "encoder", 2, None)
        decoded = self.stack(
            tf.gather(words, targets), "decoder", 2 if self.shared_stack else 3, encoded
        )
        if not self.gated:
            return decoded @ tf.transpose(words) * D_MODEL**-0.5
        with v1.variable_scope("decoder/logits"):
            return decoded @ self.variable("kernel", (D_MODEL, VOCAB))


def make(name, seed, gated, heads_apart, shared_stack):
    folder = DATA / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids, targets = random.integers(1, VOCAB, (2, 11)), random.integers(1, VOCAB, (2, 7))
    with tf.Graph().as_default(), v1.Session() as session:
        model = T5(seed, gated, heads_apart, shared_stack)
        logits = model.logits(tf.constant(ids), tf.constant(targets))
        for variable in v1.global_variables()[:6]:  # as Adafactor leaves them
            base = variable.op.name
            if len(variable.shape) == 2:
                v1.get_variable(f"{base}_slot_vr", initializer=tf.ones(variable.shape[:1]))
                v1.get_variable(f"{base}_slot_vc", initializer=tf.ones(variable.shape[1:]))
            else:
                v1.get_variable(f"{base}_slot_v", initializer=tf.ones(variable.shape))
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt-3"), write_meta_graph=False)
        outputs = session.run(logits)
    np.savez_compressed(
        folder / "forward.npz", input_ids=ids, decoder_input_ids=targets, logits=outputs
    )
    activation = "['gelu', 'linear']" if gated else "'relu'"
    (folder / "operative_config.gin").write_text(
        f"# Macros:\nd_ff = {D_FF}\nd_kv = {D_KV}\nd_model = {D_MODEL}\nnum_heads = {HEADS}\n\n"
        f"encoder/DenseReluDense.activation = {activation}\n"
        "encoder/LayerStack.sublayers_final = \\\n    [@transformer.sublayer_rms_norm]\n"
        "encoder/make_layer_stack.num_layers = 2\n"
        f"decoder/make_layer_stack.num_layers = {2 if shared_stack else 3}\n"
        "encoder/SelfAttention.num_heads = %num_heads\nsublayer_rms_norm.epsilon = 1e-06\n"
    )


if __name__ == "__main__":
    shutil.rmtree(DATA, ignore_errors=True)
    make("v10", 1, gated=False, heads_apart=False, shared_stack=False)
    make("v11", 2, gated=True, heads_apart=True, shared_stack=False)
    make("shared", 3, gated=False, heads_apart=False, shared_stack=True)
