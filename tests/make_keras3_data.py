"""Make tests/data/keras3 with real TensorFlow and Keras 3.

Run by hand in an environment of its own (tensorflow-cpu 2.21.0); the output is committed. See
make_data.py, which needs an older TensorFlow.
"""

import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

DATA = Path(__file__).resolve().parent / "data" / "keras3"


def make_model():
    keras.utils.set_random_seed(11)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(3, name="d1"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.Dense(2, name="d2"),
    ]
    model = keras.Sequential(layers, name="tiny")
    model.compile("adam", "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    return model


if __name__ == "__main__":
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    model = make_model()
    values = {weight.path: weight.numpy() for weight in model.weights}
    np.savez_compressed(DATA / "variables.npz", **values)
    tf.train.Checkpoint(model=model).write(str(DATA / "compiled"))
    with tempfile.TemporaryDirectory() as exported:
        model.export(exported, verbose=False)
        shutil.copytree(Path(exported) / "variables", DATA / "export" / "variables")
