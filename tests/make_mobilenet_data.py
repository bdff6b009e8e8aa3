"""Make tests/data/mobilenet with real TensorFlow: tiny MobileNets with slim's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed. Of V2 only
the variables' shapes are, and what TensorFlow computes with the values of mobilenet_values.py.
"""

import json
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, v1
from mobilenet_values import value_of

FOLDER = DATA / "mobilenet"
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
V1_DEPTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
# Channels, repeats and first stride of V2's bottlenecks, behind the first of 16 channels.
V2_BLOCKS = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


class Slim:
    def __init__(self, epsilon=0.001):
        self.epsilon = epsilon

    def variable(self, name, shape):
        full = f"{v1.get_variable_scope().name}/{name}"
        trained = "moving_" not in name
        value = tf.constant(value_of(full, tuple(map(int, shape))))
        return v1.get_variable(name, initializer=value, trainable=trained)

    def norm(self, x):
        with v1.variable_scope("BatchNorm"):
            gamma, beta, mean, variance = (
                self.variable(name, x.shape[-1:])
                for name in ("gamma", "beta", "moving_mean", "moving_variance")
            )
        return (x - mean) * tf.math.rsqrt(variance + self.epsilon) * gamma + beta

    def conv(self, x, scope, outputs, kernel=1, stride=1, activation=tf.nn.relu6):
        with v1.variable_scope(scope):
            weights = self.variable("weights", (kernel, kernel, x.shape[-1], outputs))
            return activation(self.norm(tf.nn.conv2d(x, weights, stride, "SAME")))

    def depthwise(self, x, scope, stride=1, rate=1):
        with v1.variable_scope(scope):
            weights = self.variable("depthwise_weights", (3, 3, x.shape[-1], 1))
            strides, rates = (1, stride, stride, 1), (rate, rate)
            x = tf.nn.depthwise_conv2d(x, weights, strides, "SAME", dilations=rates)
            return tf.nn.relu6(self.norm(x))

    def logits(self, x, scope, labels):
        with v1.variable_scope(scope):
            weights = self.variable("weights", (1, 1, x.shape[-1], labels))
            return tf.nn.conv2d(x, weights, 1, "SAME") + self.variable("biases", (labels,))


def mobilenet_v1(x, multiplier, least, labels):
    slim = Slim()
    with v1.variable_scope("MobilenetV1", reuse=v1.AUTO_REUSE):
        x = slim.conv(x, "Conv2d_0", max(int(32 * multiplier), least), 3, 2)
        for i, (depth, stride) in enumerate(zip(V1_DEPTHS, V1_STRIDES, strict=True), 1):
            x = slim.depthwise(x, f"Conv2d_{i}_depthwise", stride)
            x = slim.conv(x, f"Conv2d_{i}_pointwise", max(int(depth * multiplier), least))
        pooled = tf.reduce_mean(x, [1, 2], keepdims=True)
        logits = slim.logits(pooled, "Logits/Conv2d_1c_1x1", labels)
    return {"last_hidden_state": x, "logits": logits[:, 0, 0]}


def divisible(value, divisor, least):
    rounded = max(least, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def backbone_v2(slim, x, multiplier, divisor, output_stride=32):
    """The bottlenecks; the expansions are multiples of 8 whatever the divisor is."""
    x = slim.conv(x, "Conv", divisible(32 * multiplier, divisor, divisor), 3, 2)
    so_far, rate, number = 2, 1, 0
    for depth, repeats, first in ((16, 1, 1), *V2_BLOCKS):
        for repeat in range(repeats):
            asked = first if repeat == 0 else 1
            if so_far == output_stride:  # from here on filters are spread in place of strides
                stride, here, rate = 1, rate, rate * asked
            else:
                stride, here, so_far = asked, 1, so_far * asked
            name = "expanded_conv" + (f"_{number}" if number else "")
            with v1.variable_scope(name):
                inner = x
                if number:
                    wide = divisible(6 * int(x.shape[-1]), 8, 8)
                    inner = slim.conv(inner, "expand", wide)
                inner = slim.depthwise(inner, "depthwise", stride, here)
                outputs = divisible(depth * multiplier, divisor, divisor)
                inner = slim.conv(inner, "project", outputs, activation=tf.identity)
            same = stride == 1 and x.shape[-1] == inner.shape[-1]
            x = x + inner if same else inner
            number += 1
    return x


def mobilenet_v2(x, multiplier, divisor, labels):
    slim = Slim()
    with v1.variable_scope("MobilenetV2"):
        block = backbone_v2(slim, x, multiplier, divisor)
        x = slim.conv(block, "Conv_1", divisible(1280 * multiplier, divisor, divisor))
        pooled = tf.reduce_mean(x, [1, 2], keepdims=True)
        logits = slim.logits(pooled, "Logits/Conv2d_1c_1x1", labels)
    return {"hidden_states.15": block, "last_hidden_state": x, "logits": logits[:, 0, 0]}


def deeplab(x, multiplier, labels, output_stride):
    with v1.variable_scope("MobilenetV2"):
        x = backbone_v2(Slim(), x, multiplier, 1, output_stride)
    slim = Slim(1e-5)
    pooled = tf.reduce_mean(x, [1, 2], keepdims=True)
    pooled = slim.conv(pooled, "image_pooling", 256, activation=tf.nn.relu)
    pooled = tf.broadcast_to(pooled, (*x.shape[:-1], 256))
    aspp = slim.conv(x, "aspp0", 256, activation=tf.nn.relu)
    both = tf.concat([pooled, aspp], -1)
    both = slim.conv(both, "concat_projection", 256, activation=tf.nn.relu)
    return {"hidden_states.15": x, "logits": slim.logits(both, "logits/semantic", labels)}


def channels_first(outputs):
    return {k: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for k, v in outputs.items()}


def images(seed, height, width):
    return np.random.default_rng(seed).uniform(-1, 1, (2, height, width, 3)).astype(np.float32)


def make_v1():
    """With slots of RMSProp, and averages of all variables, which slim takes."""
    folder, pixels = FOLDER / "v1", images(1, 32, 48)
    with tf.Graph().as_default(), v1.Session() as session:
        outputs = mobilenet_v1(tf.constant(pixels), 0.02, 8, 7)
        averages = v1.train.ExponentialMovingAverage(0.9)
        kept = v1.global_variables()
        averages.apply(kept)
        step = v1.train.get_or_create_global_step()
        loss = tf.reduce_sum(outputs["logits"] ** 2)
        v1.train.RMSPropOptimizer(0.01).minimize(loss, step)
        session.run(v1.global_variables_initializer())
        for variable in kept:
            average = averages.average(variable)
            average.load(value_of(average.op.name + "/" + variable.op.name, average.shape), session)
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt-3"), write_meta_graph=False)
        found = {f"raw.{k}": v for k, v in channels_first(session.run(outputs)).items()}
        for variable in kept:
            variable.load(session.run(averages.average(variable)), session)
        found |= {f"averaged.{k}": v for k, v in channels_first(session.run(outputs)).items()}
    pixels = pixels.transpose(0, 3, 1, 2)
    np.savez_compressed(folder / "forward.npz", pixel_values=pixels, **found)


def make_outputs(name, pixels, build, *settings):
    with tf.Graph().as_default(), v1.Session() as session:
        outputs = build(tf.constant(pixels), *settings)
        session.run(v1.global_variables_initializer())
        found = channels_first(session.run(outputs))
        shapes = {v.op.name: v.shape.as_list() for v in v1.global_variables()}
    folder = FOLDER / name
    folder.mkdir()
    pixels = pixels.transpose(0, 3, 1, 2)
    np.savez_compressed(folder / "forward.npz", pixel_values=pixels, **found)
    lines = ",\n".join(f"{json.dumps(name)}: {shape}" for name, shape in shapes.items())
    (folder / "shapes.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "v1").mkdir(parents=True)
    make_v1()
    make_outputs("v2", images(2, 64, 40), mobilenet_v2, 0.19, 4, 5)
    make_outputs("deeplab", images(3, 33, 41), deeplab, 0.5, 4, 8)
