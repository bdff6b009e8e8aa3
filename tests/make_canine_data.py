"""Make tests/data/canine with real TensorFlow: tiny CANINEs with the original's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, Bert, bert_adam, no_training, v1

CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "downsampling_rate": 4,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 12,
    "initializer_range": 0.02,
    "intermediate_size": 20,
    "local_transformer_stride": 8,
    "max_positions": 24,
    "num_attention_heads": 2,
    "num_hash_buckets": 24,
    "num_hash_functions": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 3,
    "upsampling_kernel_size": 4,
}
PRIMES = (31, 43, 59)
HIDDEN, RATE = CONFIG["hidden_size"], CONFIG["downsampling_rate"]
CHUNK, LENGTH = CONFIG["local_transformer_stride"], CONFIG["max_positions"]


class Canine(Bert):
    def embeddings(self, ids, segments, config):
        with v1.variable_scope("char_embeddings"):
            shape = config["num_hash_buckets"], HIDDEN // len(PRIMES)
            tables = [
                self.variable(f"embeddings/HashBucketCodepointEmbedder_{i}", shape)
                for i in range(len(PRIMES))
            ]
            hashes = [(ids + 1) * prime % config["num_hash_buckets"] for prime in PRIMES]
            x = tf.concat([tf.gather(t, h) for t, h in zip(tables, hashes, strict=True)], -1)
            types = self.variable("segment_embeddings", (config["type_vocab_size"], HIDDEN))
            places = self.variable("char_position_embeddings", (config["max_positions"], HIDDEN))
            return self.layer_norm(x + tf.gather(types, segments) + places[:LENGTH])

    def layer(self, scope, x, mask):
        with v1.variable_scope(scope):
            x = self.attention(x, mask, CONFIG["num_attention_heads"])
            inner = self.dense(x, "intermediate/dense", CONFIG["intermediate_size"])
            inner = tf.nn.gelu(inner, approximate=True)
            with v1.variable_scope("output"):
                return self.layer_norm(x + self.dense(inner, "dense", HIDDEN))

    def convolution(self, x, width, stride, padding):
        kernel = self.variable("conv/kernel", (width, x.shape[-1], HIDDEN))
        x = tf.nn.conv1d(x, kernel, stride, padding) + self.variable("conv/bias", (HIDDEN,))
        return tf.nn.gelu(x, approximate=True)

    def model(self, ids, segments, mask, config):
        x = self.embeddings(ids, segments, config)
        chunks = tf.reshape(x, (-1, CHUNK, HIDDEN))  # within each of which characters attend
        chunks = self.layer("initial_char_encoder/layer_0", chunks, tf.reshape(mask, (-1, CHUNK)))
        chars = tf.reshape(chunks, x.shape)
        with v1.variable_scope("initial_char_encoder/initial_char_encoder/chars_to_molecules"):
            down = self.convolution(chars, RATE, RATE, "VALID")
            molecules = self.layer_norm(tf.concat([chars[:, :1], down[:, :-1]], 1))
        pooled_mask = tf.reduce_max(tf.reshape(mask, (len(ids), -1, RATE)), -1)
        for i in range(CONFIG["num_hidden_layers"]):
            molecules = self.layer(f"bert/layer_{i}", molecules, pooled_mask)
        up = tf.concat([molecules[:, 1:], molecules[:, -1:]], 1)
        both = tf.concat([chars, tf.repeat(up, RATE, 1)], -1)
        with v1.variable_scope("final_char_encoder"):
            final = self.convolution(both, CONFIG["upsampling_kernel_size"], 1, "SAME")
            final = self.layer_norm(final)
        sequence = self.layer("final_char_encoder/layer_0", final, mask)
        return sequence, tf.tanh(self.dense(molecules[:, 0], "pooler/dense", HIDDEN))


def make(name, seed, build, config=CONFIG, train=no_training):
    folder = DATA / "canine" / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids = random.integers(32, 0x2000, (3, LENGTH)).astype(np.int32)
    ids[:, 0] = 0xE000
    mask = np.ones((3, LENGTH), np.float32)
    mask[1, LENGTH - 1 :] = 0  # one less than a chunk's end
    mask[2, LENGTH - 6 :] = 0
    segments = (np.arange(LENGTH) > 9).astype(np.int32)[None].repeat(3, 0)
    with tf.Graph().as_default(), v1.Session() as session:
        model = Canine(seed)
        sequence, pooled = model.model(ids, segments, tf.constant(mask), config)
        outputs = {"CanineModel.last_hidden_state": sequence, "CanineModel.pooler_output": pooled}
        outputs |= build(model, sequence, pooled)
        v1.train.get_or_create_global_step()
        step = train(tf.reduce_sum(sequence), v1.trainable_variables())
        session.run(v1.global_variables_initializer())
        session.run(step)
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt-3"), write_meta_graph=False)
        values = session.run(outputs)
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=ids.astype(np.int64),
        attention_mask=mask.astype(np.int64),
        token_type_ids=segments.astype(np.int64),
        **values,
    )
    (folder / "canine_config.json").write_text(json.dumps(config, indent=2) + "\n")


def bare(model, sequence, pooled):
    """With variables of pre-training, whose code was never published: the shapes are made up."""
    model.variable("char_output_weights", (7, HIDDEN))
    model.dense(sequence, "autoregressive_decoder/layer_0/attention/self/query", HIDDEN)
    return {}


def tydi(model, sequence, pooled):
    with v1.variable_scope("cls/tydi"):
        logits = model.output_layer(sequence, 2)
    model.variable("answer_type_output_weights", (5, HIDDEN))
    model.variable("answer_type_output_bias", (5,))
    return {
        "CanineForQuestionAnswering.start_logits": logits[..., 0],
        "CanineForQuestionAnswering.end_logits": logits[..., 1],
    }


def classifier(model, sequence, pooled):
    return {"CanineForSequenceClassification.logits": model.output_layer(pooled, 4)}


if __name__ == "__main__":
    shutil.rmtree(DATA / "canine", ignore_errors=True)
    make("bare", 1, bare)
    make("tydi", 2, tydi, train=bert_adam)
    make("classifier", 3, classifier, CONFIG | {"num_hash_buckets": 40})
