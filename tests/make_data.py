"""Make the checkpoints under examples/ and tests/data/ with real TensorFlow.

Run by hand in an environment of its own (tensorflow-cpu 2.15.1, numpy below 2); neither the package
nor its tests need TensorFlow. The outputs are committed, with what TensorFlow's own forward pass
and reader give for them.
"""

import json
import math
import shutil
import string
from pathlib import Path

import numpy as np
import tensorflow as tf

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
DATA = ROOT / "tests" / "data"
v1 = tf.compat.v1

CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 64,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Bert:
    """A BERT forward pass with the variable names of the original release."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def variable(self, name, shape, around=0.0):
        values = around + self.random.normal(0, 0.15, shape)
        return v1.get_variable(name, initializer=tf.constant(values, tf.float32))

    def dense(self, x, scope, outputs):
        with v1.variable_scope(scope):
            kernel = self.variable("kernel", (x.shape[-1], outputs))
            return x @ kernel + self.variable("bias", (outputs,))

    def layer_norm(self, x):
        with v1.variable_scope("LayerNorm"):
            beta = self.variable("beta", (x.shape[-1],))
            gamma = self.variable("gamma", (x.shape[-1],), 1.0)
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-12) * gamma + beta

    def embeddings(self, ids, segments):
        hidden = CONFIG["hidden_size"]
        with v1.variable_scope("bert/embeddings"):
            self.words = self.variable("word_embeddings", (CONFIG["vocab_size"], hidden))
            types = self.variable("token_type_embeddings", (CONFIG["type_vocab_size"], hidden))
            places = self.variable(
                "position_embeddings", (CONFIG["max_position_embeddings"], hidden)
            )
            x = tf.gather(self.words, ids) + tf.gather(types, segments)
            return self.layer_norm(x + places[: ids.shape[1]])

    def attention(self, x, mask, heads=CONFIG["num_attention_heads"]):
        batch, length, hidden = x.shape

        def split(name):
            y = tf.reshape(self.dense(x, name, hidden), (batch, length, heads, -1))
            return tf.transpose(y, (0, 2, 1, 3))

        with v1.variable_scope("attention/self"):
            query, key, value = split("query"), split("key"), split("value")
        scores = query @ tf.transpose(key, (0, 1, 3, 2)) / math.sqrt(hidden // heads)
        scores += (1.0 - mask[:, None, None, :]) * -10000.0
        context = tf.transpose(tf.nn.softmax(scores) @ value, (0, 2, 1, 3))
        with v1.variable_scope("attention/output"):
            output = self.dense(tf.reshape(context, x.shape), "dense", hidden)
            return self.layer_norm(x + output)

    def encoder(self, x, mask):
        for layer in range(CONFIG["num_hidden_layers"]):
            with v1.variable_scope(f"bert/encoder/layer_{layer}"):
                x = self.attention(x, mask)
                inner = self.dense(x, "intermediate/dense", CONFIG["intermediate_size"])
                inner = tf.nn.gelu(inner, approximate=False)
                with v1.variable_scope("output"):
                    x = self.layer_norm(x + self.dense(inner, "dense", x.shape[-1]))
        return x

    def base(self, ids, mask, segments):
        sequence = self.encoder(self.embeddings(ids, segments), mask)
        pooled = tf.tanh(self.dense(sequence[:, 0], "bert/pooler/dense", CONFIG["hidden_size"]))
        return sequence, pooled

    def output_layer(self, x, labels):
        weights = self.variable("output_weights", (labels, x.shape[-1]))
        return x @ tf.transpose(weights) + self.variable("output_bias", (labels,))

    def pretraining(self, sequence, pooled):
        with v1.variable_scope("cls/predictions"):
            with v1.variable_scope("transform"):
                x = self.dense(sequence, "dense", CONFIG["hidden_size"])
                x = self.layer_norm(tf.nn.gelu(x, approximate=False))
            bias = self.variable("output_bias", (CONFIG["vocab_size"],))
            predictions = x @ tf.transpose(self.words) + bias
        with v1.variable_scope("cls/seq_relationship"):
            return {
                "prediction_logits": predictions,
                "seq_relationship_logits": self.output_layer(pooled, 2),
            }

    def classifier(self, sequence, pooled):
        return {"logits": self.output_layer(pooled, 4)}

    def squad(self, sequence, pooled):
        with v1.variable_scope("cls/squad"):
            logits = self.output_layer(sequence, 2)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}

    def encoder_only(self, sequence, pooled):
        return {"last_hidden_state": sequence, "pooler_output": pooled}


def bert_adam(loss, variables):
    """BERT's own optimizer: slots named <variable>/adam_m and /adam_v, and no beta powers."""
    steps = []
    for variable, gradient in zip(variables, tf.gradients(loss, variables), strict=True):
        if gradient is None:
            continue
        name, zeros = variable.op.name, tf.zeros(variable.shape)
        m = v1.get_variable(name + "/adam_m", initializer=zeros, trainable=False)
        v = v1.get_variable(name + "/adam_v", initializer=zeros, trainable=False)
        dense = tf.convert_to_tensor(gradient)
        next_m, next_v = 0.9 * m + 0.1 * dense, 0.999 * v + 0.001 * dense**2
        change = 0.01 * next_m / (tf.sqrt(next_v) + 1e-6)
        steps += [variable.assign_sub(change), m.assign(next_m), v.assign(next_v)]
    return tf.group(steps)


def stock_adam(loss, variables):
    """TensorFlow's optimizer (slots /Adam and /Adam_1, beta powers) and moving averages."""
    step = v1.train.AdamOptimizer(0.01).minimize(loss, var_list=variables)
    with tf.control_dependencies([step]):
        return v1.train.ExponentialMovingAverage(0.9).apply(variables[:3])


def no_training(loss, variables):
    return tf.no_op()


def vocabulary(cased):
    letters = string.ascii_letters if cased else string.ascii_lowercase
    words = [*SPECIAL, *letters, "the", "model", "reads", "##s", "##ing"]
    words = words[: CONFIG["vocab_size"]]
    return words + [f"[unused{i}]" for i in range(CONFIG["vocab_size"] - len(words))]


def make_bert(folder, head, train, seed, *, cased=False, prefix="bert_model.ckpt"):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed + 100)
    ids = random.integers(5, CONFIG["vocab_size"], (2, 12))
    mask = np.ones((2, 12), np.float32)
    mask[1, 9:] = 0
    segments = (np.arange(12) > 6).astype(np.int64)[None].repeat(2, 0)
    with tf.Graph().as_default(), v1.Session() as session:
        model = Bert(seed)
        sequence, pooled = model.base(tf.constant(ids), tf.constant(mask), tf.constant(segments))
        outputs = getattr(model, head)(sequence, pooled)
        variables = v1.trainable_variables()
        loss = tf.add_n([tf.reduce_mean(tf.square(output)) for output in outputs.values()])
        step = train(loss, variables)
        if train is not no_training:
            counter = v1.train.get_or_create_global_step()
            step = tf.group(step, counter.assign_add(1))
        session.run(v1.global_variables_initializer())
        for _ in range(2):
            session.run(step)
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / prefix), write_meta_graph=False)
        values = session.run(outputs)
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=ids,
        attention_mask=mask.astype(np.int64),
        token_type_ids=segments,
        **{f"output_{name}": value for name, value in values.items()},
    )
    (folder / "bert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "vocab.txt").write_text("\n".join(vocabulary(cased)) + "\n")


def make_keras(folder):
    """A small Keras model with an optimizer, saved the TF2 way."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tf.keras.utils.set_random_seed(7)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv1D(6, 3, activation="relu", input_shape=(10, 4)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(8, activation="tanh"),
            tf.keras.layers.Dense(2),
        ]
    )
    optimizer = tf.keras.optimizers.legacy.Adam(0.01)
    model.compile(optimizer, "mse")
    x = np.random.default_rng(7).normal(size=(16, 10, 4)).astype(np.float32)
    model.fit(x, np.zeros((16, 2), np.float32), epochs=1, verbose=0)
    tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(folder / "model.ckpt"))
    np.savez_compressed(folder / "forward.npz", inputs=x[:3], outputs=model(x[:3]).numpy())


def make_reader_data(folder):
    """V2 bundles for the reader: every dtype, three shards, partitioned variables, 400 names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    kinds = (
        "float32 float64 float16 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"
    )
    kinds += " complex64 complex128"
    values = {
        kind: tf.cast(tf.constant(random.integers(0, 100, (3, 2))), getattr(tf, kind))
        for kind in kinds.split()
    }
    values["scalar"] = tf.constant(2.5)
    values["empty"] = tf.zeros((0, 4))
    values["text"] = tf.constant([b"not a number"])
    tf.raw_ops.SaveV2(
        prefix=str(folder / "dtypes"),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    del values["text"]
    np.savez_compressed(
        folder / "dtypes.npz",
        **{
            k: v.numpy().view(np.uint16) if k == "bfloat16" else v.numpy()
            for k, v in values.items()
        },
    )
    parts = []
    for shard in range(3):
        names = [f"block/{i:03d}/weights" for i in range(400) if i % 3 == shard]
        part = str(folder / f"part{shard}")
        tensors = [tf.fill((2,), float(name[6:9])) for name in names]
        slices = [""] * len(names)
        if shard < 2:
            names.append("partitioned")
            tensors.append(tf.reshape(tf.range(shard * 6.0, shard * 6.0 + 6), (2, 3)))
            slices.append(f"4 3 {shard * 2},2:0,3")
        tf.raw_ops.SaveV2(prefix=part, tensor_names=names, shape_and_slices=slices, tensors=tensors)
        parts.append(part)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(folder / "sharded")
    )
    tf.raw_ops.SaveV2(  # one shard of everything that makes the reader work: the fuzzer's seed
        prefix=str(folder / "slices"),
        tensor_names=["grid", "grid", "grid", "text"],
        shape_and_slices=["3 4 0,2:0,4", "3 4 2,1:0,1", "3 4 2,1:1,3", ""],
        tensors=[
            tf.reshape(tf.range(8), (2, 4)),
            tf.constant([[8]]),
            tf.constant([[9, 10, 11]]),
            tf.constant([["one", ""], ["three", "four"]]),
        ],
    )


def make_v1_data(folder):
    """V1 files: every dtype that they can hold, and two shards with a partitioned variable."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = np.random.default_rng(5)
    kinds = "float32 float64 float16 int8 int16 int32 int64 uint8 uint16 bool complex64 complex128"
    values = {
        kind: tf.cast(tf.constant(random.normal(0, 60, (3, 5))), getattr(tf, kind))
        for kind in kinds.split()
    }
    values["large"] = tf.constant([-(2**63), -1, 0, 127, 128, 2**63 - 1])
    values["qint8"] = tf.bitcast(values["int8"], tf.qint8)
    values["quint8"] = tf.bitcast(values["uint8"], tf.quint8)
    values["qint32"] = tf.bitcast(values["int32"], tf.qint32)
    values["scalar"] = tf.constant(2.5)
    values["empty"] = tf.zeros((0, 4))
    values["text"] = tf.constant([b"not a number", b"", b"\xff\x00"])
    tf.raw_ops.Save(
        filename=str(folder / "dtypes"), tensor_names=list(values), data=list(values.values())
    )
    del values["text"]
    plain = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
    np.savez_compressed(
        folder / "dtypes.npz", **{k: values[plain.get(k, k)].numpy() for k in values}
    )
    for shard in range(2):
        tf.raw_ops.SaveSlices(
            filename=str(folder / f"model.ckpt-{shard:05d}-of-00002"),
            tensor_names=["partitioned", f"only/{shard}"],
            shapes_and_slices=[f"4 3 {shard * 2},2:0,3", ""],
            data=[
                tf.reshape(tf.range(shard * 6.0, shard * 6.0 + 6), (2, 3)),
                tf.fill((40,), float(shard)),
            ],
        )
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-?????-of-00002"\n')


class Net(tf.Module):
    """Objects in a list and in a dict, one of them twice, and a lookup table."""

    def __init__(self):
        super().__init__()
        self.shared = tf.Variable([1.0, 2.0], name="w")
        self.blocks = [tf.Variable([3.0], name="b"), self.shared]
        self.by_name = {"x/y.z": tf.Variable(4.0, name="xyz"), "twin": tf.Variable(5.0, name="b")}
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(tf.constant(["one", "two"]), tf.constant([1, 2], tf.int64))


def make_object_data(folder):
    """A TF2 checkpoint of a Keras 2 model with a new-style optimizer, beside a tf.Module."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tf.keras.utils.set_random_seed(9)
    layers = [
        tf.keras.layers.Dense(3, name="d1", input_shape=(4,)),
        tf.keras.layers.BatchNormalization(name="bn"),
    ]
    model = tf.keras.Sequential(layers)
    model.compile(tf.keras.optimizers.Adam(), "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 3)), verbose=0)
    tf.train.Checkpoint(model=model, net=Net()).save(str(folder / "model.ckpt"))
    variables = {v.name.removesuffix(":0"): v.numpy() for v in model.variables}
    np.savez_compressed(folder / "variables.npz", **variables)


if __name__ == "__main__":
    make_bert(EXAMPLES / "bert-tiny", "pretraining", bert_adam, 1)
    make_keras(EXAMPLES / "keras-regressor")
    make_bert(DATA / "classifier", "classifier", stock_adam, 2, cased=True, prefix="model.ckpt-3")
    make_bert(DATA / "squad", "squad", bert_adam, 3, prefix="model.ckpt-3")
    make_bert(DATA / "encoder", "encoder_only", no_training, 4)
    make_reader_data(DATA / "reader")
    make_v1_data(DATA / "v1")
    make_object_data(DATA / "objects")
