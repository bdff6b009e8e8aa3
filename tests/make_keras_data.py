"""Make tests/data/keras with real Keras, 2 and 3.

Run by hand in two environments, one with tensorflow-cpu 2.15.1, the other with keras 3.15.1 and a
backend of it; the output is committed.
"""

from pathlib import Path

import keras
import numpy as np

DATA = Path(__file__).resolve().parent / "data" / "keras"
layers = keras.layers


class Block(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.norm = layers.LayerNormalization()
        self.parts = [layers.Dense(3), layers.Dense(3)]

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(shape[-1],))
        for layer in (self.norm, *self.parts):
            layer.build(shape)

    def call(self, inputs):
        outputs = self.norm(inputs) * self.scale
        for part in self.parts:
            outputs = part(outputs)
        return outputs


def make_model():
    inputs = keras.Input((2,))
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(3)], name="inner")
    outputs = layers.BatchNormalization(name="bn")(inner(inputs))
    if int(keras.__version__[0]) > 2:
        outputs = Block(name="block_a")(outputs)
    outputs = layers.Dense(1, name="head")(layers.Dropout(0.1)(outputs))
    model = keras.Model(inputs, outputs, name="net")
    generator = np.random.default_rng(5)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), epochs=1, verbose=0)
    return model


class Loose(keras.Model):
    """Has a weight outside of its layers, and two layers that call their weights alike."""

    def __init__(self):
        super().__init__()
        self.one = keras.Sequential([layers.Dense(2, name="same")], name="one")
        self.two = keras.Sequential([layers.Dense(2, name="same")], name="two")
        self.loose = self.add_weight(name="loose", shape=(2,))

    def call(self, inputs):
        return self.two(self.one(inputs)) + self.loose


def main():
    DATA.mkdir(exist_ok=True)
    model = make_model()
    version = keras.__version__[0]
    values = {str(i): w for i, w in enumerate(model.get_weights())}
    np.savez_compressed(DATA / f"values{version}.npz", **values)
    model.save(DATA / f"model{version}.h5")
    model.save(DATA / f"model{version}.keras")
    model.save_weights(DATA / f"model{version}.weights.h5")
    if version == "2":
        model.save_weights(DATA / "weights.h5")
        loose = Loose()
        loose(np.zeros((1, 2)))
        loose.save_weights(DATA / "loose.h5")
    else:
        keras.config.set_dtype_policy("bfloat16")
        small = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="only")])
        small.save_weights(DATA / "bfloat16.weights.h5")
        small.save(DATA / "bfloat16.h5")


if __name__ == "__main__":
    main()
