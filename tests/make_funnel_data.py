"""Make tests/data/funnel with real TensorFlow: tiny Funnels with the original's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import math
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, v1

NET_CONFIG = {
    "block_size": "2_1x2_1",
    "d_embed": 10,
    "d_head": 4,
    "d_inner": 14,
    "d_model": 10,
    "decoder_size": "1",
    "dropact": 0.0,
    "dropatt": 0.1,
    "dropout": 0.1,
    "ff_activation": "gelu",
    "init": "truncated_normal",
    "init_range": 0.1,
    "init_std": 0.02,
    "n_head": 3,
    "pool_q_only": True,
    "pooling_size": 2,
    "pooling_type": "mean",
    "rel_attn_type": "factorized",
    "separate_cls": True,
    "vocab_size": 30,
}
WORDS = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "the", "of", "##s"]
LENGTH = 16


def pooled(x, axis=1):
    """Every other one along an axis: the first, and of the rest each that starts a pair."""
    one, rest = tf.split(x, [1, x.shape[axis] - 1], axis)
    keep = np.arange(0, x.shape[axis] - 2, 2)
    return tf.concat([one, tf.gather(rest, keep, axis=axis)], axis)


def joined(x, kind):
    """The first, and the mean, maximum or minimum of each pair of the rest."""
    pairs = x[:, 1:-1]
    pairs = tf.reshape(pairs, (x.shape[0], -1, 2, *x.shape[2:]))
    reduce = {"mean": tf.reduce_mean, "max": tf.reduce_max, "min": tf.reduce_min}[kind]
    return tf.concat([x[:, :1], reduce(pairs, 2)], 1)


class Funnel:
    """Funnel's forward pass; relative positions are taken one by one, as in the paper's A.2.1."""

    def __init__(self, seed, config):
        self.random, self.config = np.random.default_rng(seed), config

    def variable(self, name, *shape, around=0.0):
        values = around + self.random.normal(0, 0.3, shape)
        return v1.get_variable(name, shape, tf.float32, tf.constant_initializer(values))

    def dense(self, x, scope, *outputs, axes=1, bias=True):
        with v1.variable_scope(scope):
            y = tf.tensordot(x, self.variable("kernel", *x.shape[-axes:], *outputs), axes)
            return y + self.variable("bias", *outputs) if bias else y

    def layer_norm(self, x):
        with v1.variable_scope("layer_norm"):
            beta = self.variable("beta", x.shape[-1])
            gamma = self.variable("gamma", x.shape[-1], around=1.0)
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-8) * gamma + beta

    def layer(self, scope, query, keys, at):
        """`at` are positions, segments of pairs, what is not the first token, and the padding."""
        config = self.config
        heads = config["n_head"], config["d_head"]
        (queries_at, keys_at), same, others, padding = at
        with v1.variable_scope(scope, reuse=v1.AUTO_REUSE):
            with v1.variable_scope("rel_attn"):
                q = self.dense(query, "q", *heads, bias=False) / math.sqrt(heads[1])
                k, v = (self.dense(keys, name, *heads) for name in "kv")
                biased = [
                    q + self.variable(f"r_{name}_bias", *heads) / math.sqrt(heads[1])
                    for name in "wrs"
                ]
                half = np.arange(config["d_model"] // 2) / (config["d_model"] // 2)
                angles = (queries_at[:, None] - keys_at[None])[..., None] / 10000.0**half
                waves = tf.cast(tf.concat([tf.sin(angles), tf.cos(angles)], -1), tf.float32)
                r = self.dense(waves, "r", *heads, bias=False)
                kinds = self.variable("seg_embed", 2, *heads)
                segments = tf.einsum("bqnh,snh->bnqs", biased[2], kinds)
                which = tf.one_hot(tf.cast(same, tf.int32), 2)
                scores = tf.einsum("bqnh,qknh->bnqk", biased[1], r)
                scores += tf.einsum("bnqs,bqks->bnqk", segments, which)
                scores = scores * others + tf.einsum("bqnh,bknh->bnqk", biased[0], k)
                scores -= 1e6 * padding[:, None, None]
                context = tf.einsum("bnqk,bknh->bqnh", tf.nn.softmax(scores), v)
                x = self.layer_norm(query + self.dense(context, "o", config["d_model"], axes=2))
            with v1.variable_scope("ff"):
                inner = tf.nn.gelu(self.dense(x, "layer_1", config["d_inner"]), approximate=True)
                return self.layer_norm(x + self.dense(inner, "layer_2", config["d_model"]))

    def base(self, ids, segments, padding, reuse=False):
        """The hidden states of each layer run, and where attention of the first block is."""
        config = self.config
        with v1.variable_scope("model", reuse=reuse):
            with v1.variable_scope("input"):
                with v1.variable_scope("word_embedding"):
                    shape = config["vocab_size"], config["d_model"]
                    self.words = self.variable("lookup_table", *shape)
                x = self.layer_norm(tf.gather(self.words, ids))
            place = np.arange(ids.shape[1])
            mine, its = segments[:, :, None], segments[:, None]
            same = tf.equal(mine, its) | tf.equal(mine, 2) | tf.equal(its, 2)
            others = tf.constant((place[:, None] > 0) & (place > 0), tf.float32)
            at = (tf.constant(place, tf.float64),) * 2, tf.cast(same, tf.float32), others, padding
            self.first, states, number = at, [x], 0
            for block, size in enumerate(config["block_size"].split("_")):
                layers, times = map(int, f"{size}x1".split("x")[:2])
                query = keys = states[-1]
                if block:
                    after = (
                        (pooled(at[0][0], 0),) * 2,
                        pooled(pooled(at[1]), 2),
                        pooled(pooled(at[2], 0), 1),
                        joined(at[3], "min"),  # of padding, which is 1
                    )
                    query = joined(keys, config["pooling_type"])
                    if config["pool_q_only"]:
                        at = (after[0][0], at[0][1]), pooled(at[1]), pooled(at[2], 0), at[3]
                    else:
                        keys, at = query, after
                for inner in range(layers):
                    for _ in range(times):
                        scope = f"encoder/layer_{number + inner}"
                        states.append(self.layer(scope, query, keys, at))
                        query = keys = states[-1]
                        at = after if block else at
                number += layers
            self.number = number
        return states

    def whole(self, states):
        """The decoder's output, on the sum of the first block's last state and the last, spread."""
        blocks = [f"{size}x1".split("x") for size in self.config["block_size"].split("_")]
        stride = 2 ** (len(blocks) - 1)
        last = states[-1]
        spread = tf.repeat(last[:, 1:], stride, axis=1)
        spread = tf.pad(spread, [[0, 0], [0, stride - 1], [0, 0]])
        x = tf.concat([last[:, :1], spread], 1) + states[int(blocks[0][0])]
        with v1.variable_scope("model"):
            for inner in range(int(self.config["decoder_size"])):
                x = self.layer(f"decoder/layer_{self.number + inner}", x, x, self.first)
        return x


def pretraining(model, states):
    """Replaced words, and beside them a piece of a generator."""
    x = model.whole(states)
    with v1.variable_scope("model"):
        y = tf.nn.gelu(model.dense(x, "binary_proj/dense", x.shape[-1]), approximate=True)
        with v1.variable_scope("binary_loss"):
            logits = tf.linalg.matvec(y, model.variable("weight", x.shape[-1]))
            logits += model.variable("bias", 1)
    with v1.variable_scope("generator"):
        model.dense(x, "encoder/input_projection", 4)
        model.dense(x[..., :4], "lm_proj/dense", x.shape[-1])
    return {
        "FunnelForPreTraining.logits": logits,
        "FunnelModel.last_hidden_state": x,
        "FunnelBaseModel.last_hidden_state": states[-1],
    }


def fine_tuned(model, states):
    """Two tasks of classifier.py in one."""
    with v1.variable_scope("model"):
        summary = model.dense(states[-1][:, 0], "sequnece_summary/summary", states[-1].shape[-1])
        tasks = {"mnli_matched": 3, "sts-b": 1}
        return {
            f"{task}.logits": model.dense(tf.tanh(summary), f"{task}/logit", labels)
            for task, labels in tasks.items()
        }


def squad(model, states):
    x = model.whole(states)
    with v1.variable_scope("model"):
        starts, ends = (model.dense(x, f"{name}_logits/dense", 1) for name in ("start", "end"))
        model.dense(tf.concat([x, x], -1), "answer_class/dense_0", x.shape[-1])
        model.dense(x, "answer_class/dense_1", 1, bias=False)
    return {
        "FunnelForQuestionAnswering.start_logits": starts[..., 0],
        "FunnelForQuestionAnswering.end_logits": ends[..., 0],
    }


def inputs(seed, vocabulary, real):
    random = np.random.default_rng(seed)
    ids = random.integers(5, vocabulary, (2, LENGTH))
    segments = (np.arange(LENGTH) > 6).astype(np.int64)[None].repeat(2, 0)
    ids[:, 0] = segments[:, 0] = 2
    mask = np.arange(LENGTH) < np.array([[LENGTH], [real]])
    return ids, segments, mask.astype(np.int64)


def make(name, seed, build, has_slots=False, **changed):
    config = NET_CONFIG | changed
    folder = DATA / "funnel" / name
    folder.mkdir(parents=True)
    # With 13 real tokens pooling joins none with padding; with 12 it does.
    given = inputs(seed, config["vocab_size"], 13)
    with tf.Graph().as_default(), v1.Session() as session:
        ids, segments, mask = map(tf.constant, given)
        model = Funnel(seed, config)
        outputs = build(model, model.base(ids, segments, tf.cast(1 - mask, tf.float32)))
        weights = v1.global_variables()
        step = v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        values = session.run(outputs)
        if has_slots:
            for weight in weights:
                for slot in ("adam_m", "adam_v"):
                    zeros = tf.zeros(weight.shape)
                    v1.get_variable(f"{weight.op.name}/{slot}", initializer=zeros)
            session.run(v1.global_variables_initializer())
        saved = v1.global_variables() if has_slots else weights
        saver = v1.train.Saver(saved, save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False)
    del step
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=given[0],
        token_type_ids=given[1],
        attention_mask=given[2],
        **values,
    )
    (folder / "net_config.json").write_text(json.dumps(config, indent=2) + "\n")
    if name == "pretraining":
        (folder / "vocab.uncased.txt").write_text("".join(word + "\n" for word in WORDS))


if __name__ == "__main__":
    shutil.rmtree(DATA / "funnel", ignore_errors=True)
    make("pretraining", 1, pretraining, has_slots=True)
    make("fine_tuned", 2, fine_tuned, decoder_size="2")
    make("squad", 3, squad, block_size="1_2", pool_q_only=False, pooling_type="max", n_head=2)
