"""Make the checkpoints and outputs of slim_cnn, lstm_tagger and keras_text with TensorFlow 2.15.1.

Run by hand; the output is committed.
"""

import os
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf

v1 = tf.compat.v1
HERE = Path(__file__).resolve().parent
RANDOM = np.random.default_rng(16)


def remove_old(folder):
    for pattern in ("*.index", "*.data-*", "checkpoint", "forward.npz"):
        for file in folder.glob(pattern):
            file.unlink()


def save(folder, session, **arrays):
    """A checkpoint as `tf.train.Saver` writes it, and TensorFlow's inputs and outputs."""
    remove_old(folder)
    saver = v1.train.Saver(max_to_keep=1, save_relative_paths=True)
    saver.save(session, str(folder / "model.ckpt"), global_step=20, write_meta_graph=False)
    np.savez_compressed(folder / "forward.npz", **arrays)


def slim_conv(x, scope, filters, stride, is_training):
    """`slim.conv2d` with `slim.batch_norm`: SAME padding, no scale, epsilon 0.001."""
    with v1.variable_scope(scope):
        weights = v1.get_variable("weights", (3, 3, x.shape[-1], filters))
        x = tf.nn.conv2d(x, weights, strides=stride, padding="SAME")
        with v1.variable_scope("BatchNorm"):
            beta = v1.get_variable("beta", filters, initializer=v1.zeros_initializer)
            mean = v1.get_variable("moving_mean", filters, trainable=False)
            variance = v1.get_variable(
                "moving_variance", filters, initializer=v1.ones_initializer, trainable=False
            )
            found = tf.nn.moments(x, (0, 1, 2))
            for average, value in zip((mean, variance), found, strict=True):
                step = v1.assign_sub(average, (average - value) * 0.1)
                v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, step)
            mean, variance = tf.cond(is_training, lambda: found, lambda: (mean, variance))
            return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, beta, None, 0.001))


def slim_linear(x, scope, units):
    """`slim.fully_connected` without an activation."""
    with v1.variable_scope(scope):
        weights = v1.get_variable("weights", (x.shape[-1], units))
        return x @ weights + v1.get_variable("biases", units)


def make_slim_cnn(folder):
    """Two convolutions, a flatten, and classes of which the first is the background."""
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(1)
        images = v1.placeholder(tf.float32, (None, 8, 8, 3))
        is_training = v1.placeholder_with_default(False, ())
        with v1.variable_scope("cnn"):
            x = slim_conv(images, "conv1", 8, 1, is_training)
            x = slim_conv(x, "conv2", 12, 2, is_training)
            x = tf.reshape(x, (-1, 4 * 4 * 12))
            x = tf.nn.relu(slim_linear(x, "fc3", 16))
            logits = slim_linear(x, "logits", 11)
        labels = v1.placeholder(tf.int32, (None,))
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        train(session, loss, v1.train.MomentumOptimizer(0.02, 0.9), is_training, images, labels)
        pictures = RANDOM.normal(size=(4, 8, 8, 3)).astype(np.float32)
        outputs = session.run(logits, {images: pictures})
        save(folder, session, inputs=pictures, outputs=outputs)


def train(session, loss, optimizer, is_training, images, labels):
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        step = optimizer.minimize(loss, v1.train.get_or_create_global_step())
    session.run(v1.global_variables_initializer())
    for _ in range(20):
        batch = RANDOM.normal(1, 2, size=(32, 8, 8, 3)), RANDOM.integers(0, 11, 32)
        session.run(step, {images: batch[0], labels: batch[1], is_training: True})


def make_lstm_tagger(folder):
    """Words, an LSTM in both directions, and a tag for each word."""
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(2)
        words = v1.placeholder(tf.int32, (None, 7))
        tags = v1.placeholder(tf.int32, (None, 7))
        with v1.variable_scope("tagger"):
            x = tf.gather(v1.get_variable("embedding", (40, 8)), words)
            cells = [v1.nn.rnn_cell.BasicLSTMCell(6, name="basic_lstm_cell") for _ in range(2)]
            x = tf.concat(v1.nn.bidirectional_dynamic_rnn(*cells, x, dtype=tf.float32)[0], 2)
            logits = v1.layers.dense(x, 5, name="projection")
        loss = v1.losses.sparse_softmax_cross_entropy(tags, logits)
        step = v1.train.AdamOptimizer(0.02).minimize(loss, v1.train.get_or_create_global_step())
        session.run(v1.global_variables_initializer())
        for _ in range(20):
            text = RANDOM.integers(0, 40, (16, 7))
            session.run(step, {words: text, tags: text % 5})
        text = RANDOM.integers(0, 40, (3, 7))
        save(folder, session, inputs=text, outputs=session.run(logits, {words: text}))


def make_keras_text(folder):
    """Words, an LSTM in both directions, a GRU; saved by `save_weights` as a checkpoint."""
    remove_old(folder)
    tf.keras.utils.set_random_seed(3)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Embedding(30, 8, input_length=6),
            layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
            layers.BatchNormalization(),
            layers.GRU(4),
            layers.Dense(3),
        ]
    )
    model.compile(tf.keras.optimizers.Adam(0.02), "mse")
    text = RANDOM.integers(0, 30, (32, 6))
    model.fit(text, np.eye(3)[text[:, 0] % 3], epochs=40, verbose=0)
    model.save_weights(str(folder / "weights"))
    np.savez_compressed(folder / "forward.npz", inputs=text[:4], outputs=model(text[:4]).numpy())


if __name__ == "__main__":
    make_slim_cnn(HERE / "slim_cnn")
    make_lstm_tagger(HERE / "lstm_tagger")
    make_keras_text(HERE / "keras_text")
