"""Write tests/data/graph: a recurrent model of TensorFlow 1 with its graph beside it.

Run by a Python with tensorflow-cpu 2.15.1. The model has a convolution and a flatten that is not
square, a layer behind another layer, two layers of BasicLSTMCell with a forget bias of their own,
and an LSTM written out with its gates in the order i, f, o, u.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

v1 = tf.compat.v1
FOLDER = Path(__file__).parent / "data" / "graph"
STEPS, CELLS = 3, 4


def own_lstm(inputs: tf.Tensor) -> tf.Tensor:
    """Gates in the order i, f, o, u, with a matrix each for input and state."""
    with v1.variable_scope("own"):
        wx = v1.get_variable("wx", [inputs.shape[-1], 4 * CELLS])
        wh = v1.get_variable("wh", [CELLS, 4 * CELLS])
        bias = v1.get_variable("b", [4 * CELLS])
    cell = state = tf.zeros([1, CELLS])
    for step in range(STEPS):
        z = tf.matmul(inputs[:, step], wx) + tf.matmul(state, wh) + bias
        i, f, o, u = tf.split(z, 4, axis=1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(u)
        state = tf.sigmoid(o) * tf.tanh(cell)
    return state


def build() -> tf.Tensor:
    image = v1.placeholder(tf.float32, [None, 6, 4, 2], "image")
    with v1.variable_scope("zoom"):  # made first, comes last by name
        kernel = v1.get_variable("w", [3, 3, 2, 5])
        hidden = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME"))
    flat = tf.reshape(hidden, [-1, 6 * 4 * 5])
    dense = [v1.get_variable(n, s) for n, s in (("fc1/w", [120, 60]), ("fc2/w", [60, 6]))]
    hidden = tf.nn.dropout(tf.nn.relu(tf.matmul(flat, dense[0])), rate=0.1)
    hidden = tf.matmul(hidden, dense[1])
    steps = tf.stack([hidden] * STEPS, axis=1)
    cells = [
        v1.nn.rnn_cell.BasicLSTMCell(CELLS, forget_bias=bias, name=f"cell{i}")
        for i, bias in enumerate((0.5, 0.0))
    ]
    outputs, _ = v1.nn.dynamic_rnn(
        v1.nn.rnn_cell.MultiRNNCell(cells), steps, dtype=tf.float32, scope="rnn"
    )
    return own_lstm(outputs)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    v1.disable_eager_execution()
    v1.disable_control_flow_v2()
    v1.disable_resource_variables()
    v1.set_random_seed(7)
    build()
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        v1.train.Saver(save_relative_paths=True).save(session, str(FOLDER / "model.ckpt"))


main()
