"""Make tests/data/transfo_xl with real TensorFlow: tiny Transformer-XLs as train_gpu.py saves them.

Run by hand in an environment of its own (see make_data.py); the output is committed. `wt103` is cut
and tied as the released model of that name, `lm1b` as the other one (nothing is tied, and no
projection where widths agree), `one_table` has clusters of one width narrower than the model, and
`chars` no clusters.
"""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorflow as tf

DATA = Path(__file__).resolve().parent / "data" / "transfo_xl"
v1 = tf.compat.v1
D_MODEL, D_INNER, HEADS, D_HEAD, MEMORY, LENGTH, BATCH = 8, 12, 2, 3, 4, 5, 2


class TransformerXL:
    def __init__(self, seed, d_embed, ends, divisor, layers, untied, share, same_dim, same_length):
        self.random = np.random.default_rng(seed)
        self.values = {}
        self.bounds = list(pairwise(ends))
        self.divisor, self.layers, self.same_length = divisor, layers, same_length
        clusters = len(self.bounds)
        widths = [d_embed // divisor**i for i in range(clusters)]
        embed = "transformer/adaptive_embed"
        softmax = "transformer/adaptive_softmax"
        if divisor == 1:
            table = self.new(f"{embed}/lookup_table", ends[-1], d_embed)
            self.tables = [table[start:end] for start, end in self.bounds]
            has_projection = d_embed != D_MODEL
            whole = self.new(f"{embed}/proj_W", d_embed, D_MODEL) if has_projection else None
            self.inward = [whole] * clusters
        else:
            self.tables = [
                self.new(f"{embed}/cutoff_{i}/lookup_table", end - start, widths[i])
                for i, (start, end) in enumerate(self.bounds)
            ]
            self.inward = [
                self.new(f"{embed}/cutoff_{i}/proj_W", width, D_MODEL)
                if same_dim or width != D_MODEL
                else None
                for i, width in enumerate(widths)
            ]
        if clusters == 1:
            self.biases, self.outward = [self.new(f"{softmax}/bias", ends[-1])], self.inward
        else:
            self.outward, self.biases = [], []
            for i, (start, end) in enumerate(self.bounds):
                scope = f"{softmax}/cutoff_{i}"
                self.biases.append(self.new(f"{scope}/b", end - start))
                if share and i > 0:
                    self.outward.append(self.inward[i])
                elif (divisor == 1 or not same_dim) and widths[i] == D_MODEL:
                    self.outward.append(None)
                else:
                    self.outward.append(self.new(f"{scope}/proj", widths[i], D_MODEL))
            self.cluster_weight = self.new(f"{softmax}/cutoff_0/cluster_W", clusters - 1, d_embed)
            self.cluster_bias = self.new(f"{softmax}/cutoff_0/cluster_b", clusters - 1)
        per_layer = (layers,) if untied else ()
        r_w = self.new("transformer/r_w_bias", *per_layer, HEADS, D_HEAD)
        r_r = self.new("transformer/r_r_bias", *per_layer, HEADS, D_HEAD)
        self.r_w, self.r_r = (list(b) if untied else [b] * layers for b in (r_w, r_r))

    def new(self, name, *shape):
        around = 1.0 if name.endswith("gamma") else 0.0
        value = (around + self.random.normal(0, 0.4, shape)).astype(np.float32)
        return self.values.setdefault(name, value)

    def norm(self, x, scope):
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        gamma, beta = (self.new(f"{scope}/LayerNorm/{n}", D_MODEL) for n in ("gamma", "beta"))
        return (x - mean) * tf.math.rsqrt(variance + 1e-12) * gamma + beta

    def embed(self, ids):
        rows = []
        for table, projection in zip(self.tables, self.inward, strict=True):
            rows.append(table if projection is None else table @ projection)
        return tf.gather(tf.concat(rows, 0), ids) * D_MODEL**0.5

    def attention(self, x, memory, layer):
        """[length, batch, model] and [memory, batch, model]; see section 3.3 of the paper."""
        scope = f"transformer/layer_{layer}/rel_attn"
        inner = HEADS * D_HEAD
        qkv = self.new(f"{scope}/qkv/kernel", D_MODEL, 3 * inner)
        relative = self.new(f"{scope}/r/kernel", D_MODEL, inner)
        out = self.new(f"{scope}/o/kernel", inner, D_MODEL)
        everything = tf.concat([memory, x], 0)
        total = MEMORY + LENGTH

        def heads(values):
            return tf.reshape(values, (*values.shape[:-1], HEADS, D_HEAD))

        query = heads(x @ qkv[:, :inner])
        key = heads(everything @ qkv[:, inner : 2 * inner])
        value = heads(everything @ qkv[:, 2 * inner :])
        frequencies = 1 / 10000 ** (np.arange(0, D_MODEL, 2) / D_MODEL)
        angles = np.arange(total)[:, None] * frequencies  # by distance
        positions = np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)
        by_distance = heads(positions @ relative)
        distance = MEMORY + np.arange(LENGTH)[:, None] - np.arange(total)[None]
        scores = tf.einsum("ibnd,jbnd->ijbn", query + self.r_w[layer], key)
        far = tf.einsum("ibnd,mnd->imbn", query + self.r_r[layer], by_distance)
        scores += tf.gather(far, np.maximum(distance, 0), axis=1, batch_dims=1)
        hidden = (distance < 0) | (self.same_length & (distance > MEMORY))
        scores = scores / D_HEAD**0.5 - 1e30 * hidden[:, :, None, None]
        context = tf.einsum("ijbn,jbnd->ibnd", tf.nn.softmax(scores, 1), value)
        attended = tf.reshape(context, (LENGTH, -1, inner)) @ out
        return self.norm(x + attended, scope)

    def feed_forward(self, x, layer):
        scope = f"transformer/layer_{layer}/ff"
        inner = x @ self.new(f"{scope}/layer_1/kernel", D_MODEL, D_INNER)
        inner = tf.nn.relu(inner + self.new(f"{scope}/layer_1/bias", D_INNER))
        out = inner @ self.new(f"{scope}/layer_2/kernel", D_INNER, D_MODEL)
        return self.norm(x + out + self.new(f"{scope}/layer_2/bias", D_MODEL), scope)

    def log_probabilities(self, ids, memories):
        """Of all words, [batch, length, words], for ids [batch, length]."""
        x = self.embed(ids.T)
        for layer in range(self.layers):
            x = self.feed_forward(self.attention(x, memories[layer], layer), layer)

        def logits(cluster, extra=None):
            weight, bias = self.tables[cluster], self.biases[cluster]
            if extra is not None:
                weight, bias = np.concatenate([weight, extra[0]]), np.concatenate([bias, extra[1]])
            projection = self.outward[cluster]
            inputs = x if projection is None else x @ projection.T
            return tf.nn.log_softmax(inputs @ weight.T + bias)

        if len(self.bounds) == 1:
            return tf.transpose(logits(0), (1, 0, 2))
        head = logits(0, (self.cluster_weight, self.cluster_bias))
        first = len(self.tables[0])
        parts = [head[..., :first]]
        for i in range(1, len(self.bounds)):
            parts.append(head[..., first + i - 1, None] + logits(i))
        return tf.transpose(tf.concat(parts, -1), (1, 0, 2))


def make(name, seed, ends, **options):
    folder = DATA / name
    folder.mkdir(parents=True)
    model = TransformerXL(seed, ends=ends, **options)
    random = np.random.default_rng(seed + 100)
    ids = random.integers(0, ends[-1], (BATCH, LENGTH))
    memories = random.normal(size=(model.layers, MEMORY, BATCH, D_MODEL)).astype(np.float32)
    outputs = model.log_probabilities(ids, memories).numpy()
    with tf.Graph().as_default(), v1.Session() as session:
        for variable, value in model.values.items():
            v1.get_variable(variable, initializer=tf.constant(value))
            for slot in ("Adam", "Adam_1"):
                v1.get_variable(f"{variable}/{slot}", initializer=tf.ones(value.shape) * 7)
        v1.get_variable("beta1_power", initializer=0.5)
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False)
    np.savez_compressed(folder / "forward.npz", input_ids=ids, mems=memories, log_probs=outputs)
    corpus = {"vocab_size": ends[-1], "cutoffs": list(ends), "dataset": name}
    (folder / "corpus-info.json").write_text(json.dumps(corpus))


if __name__ == "__main__":
    shutil.rmtree(DATA, ignore_errors=True)
    usual = {"untied": True, "share": False, "same_dim": True, "same_length": False}
    make("wt103", 1, (0, 7, 12, 20), d_embed=8, divisor=2, layers=2, **usual | {"share": True})
    make("lm1b", 2, (0, 6, 13, 21), d_embed=8, divisor=2, layers=1, **usual | {"same_dim": False})
    one_table = usual | {"untied": False, "share": True, "same_length": True}
    make("one_table", 3, (0, 5, 9, 16), d_embed=6, divisor=1, layers=2, **one_table)
    make("chars", 4, (0, 11), d_embed=6, divisor=1, layers=2, **usual)
