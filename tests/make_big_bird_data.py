"""Make tests/data/big_bird: a SavedModel's variables, as the Model Garden's TriviaQA has them.

Run by hand with tensorflow-cpu 2.15.1; the output is committed. The layers have the Garden's names
and attributes, on which a checkpoint's names depend; what they compute is written down here, with
full attention and one epsilon.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

DATA = Path(__file__).resolve().parent / "data" / "big_bird" / "trivia_qa"
VOCABULARY, HIDDEN, HEADS, WIDE, POSITIONS = 23, 8, 2, 8, 16
EPSILON = 1e-12
layers = tf.keras.layers


def norm(name):
    return layers.LayerNormalization(epsilon=EPSILON, name=name)


def gelu(values):
    return tf.nn.gelu(values, approximate=True)


class PositionEmbedding(layers.Layer):
    def build(self, shape):
        self._position_embeddings = self.add_weight("embeddings", [POSITIONS, HIDDEN])

    def call(self, inputs):
        return self._position_embeddings[: tf.shape(inputs)[1]]


class BigBirdAttention(layers.Layer):
    def build(self, shape):
        to_heads = "abc,cde->abde", (None, HEADS, HIDDEN // HEADS)
        for name in ("query", "key", "value"):
            layer = layers.EinsumDense(*to_heads, bias_axes="de", name=name)
            setattr(self, f"_{name}_dense", layer)
        self._output_dense = layers.EinsumDense(
            "abde,dec->abc", (None, HIDDEN), bias_axes="c", name="attention_output"
        )

    def call(self, inputs):
        query, key, value = (
            getattr(self, f"_{name}_dense")(inputs) for name in ("query", "key", "value")
        )
        scores = tf.einsum("abde,afde->adbf", query, key) / (HIDDEN // HEADS) ** 0.5
        return self._output_dense(tf.einsum("adbf,afde->abde", tf.nn.softmax(scores), value))


class TransformerScaffold(layers.Layer):
    def build(self, shape):
        self._attention_layer = BigBirdAttention(name="big_bird_attention")
        self._attention_layer_norm = norm("self_attention_layer_norm")
        self._intermediate_dense = layers.Dense(WIDE, gelu, name="intermediate")
        self._output_dense = layers.Dense(HIDDEN, name="output")
        self._output_layer_norm = norm("output_layer_norm")

    def call(self, inputs):
        inner = self._attention_layer_norm(inputs + self._attention_layer(inputs))
        return self._output_layer_norm(inner + self._output_dense(self._intermediate_dense(inner)))


class TriviaQaHead(layers.Layer):
    """Two of its layers have one name, and here one shape, too."""

    def build(self, shape):
        self._intermediate_dense = layers.Dense(WIDE, gelu, name="dense")
        self._output_dense = layers.Dense(HIDDEN, name="dense")
        self._output_layer_norm = norm("layer_normalization")
        self._logits_dense = layers.Dense(2, name="dense_1")

    def call(self, inputs):
        inner = self._output_dense(self._intermediate_dense(inputs))
        return self._logits_dense(self._output_layer_norm(inputs + inner))


def make_model():
    words, types = (tf.keras.Input([None], dtype=tf.int32) for _ in range(2))
    states = layers.Embedding(VOCABULARY, HIDDEN, name="word_embeddings")(words)
    positions = PositionEmbedding(name="position_embedding")(states)
    segments = layers.Embedding(2, HIDDEN, name="type_embeddings")(types)
    states = norm("embeddings/layer_norm")(states + positions + segments)
    for number in (9, 10):  # what else a session makes has numbers, too
        states = TransformerScaffold(name=f"transformer_scaffold_{number}")(states)
    pooled = layers.Dense(HIDDEN, "tanh", name="cls_transform")(states[:, 0])
    encoder = tf.keras.Model([words, types], [states, pooled], name="encoder")
    inputs = [tf.keras.Input([None], dtype=tf.int32) for _ in range(2)]
    states, pooled = encoder(inputs)
    return tf.keras.Model(inputs, [TriviaQaHead(name="trivia_qa_head")(states), states, pooled])


def main():
    model = make_model()
    generator = np.random.default_rng(11)
    model.set_weights([0.5 * generator.normal(size=w.shape) for w in model.get_weights()])
    shutil.rmtree(DATA, ignore_errors=True)
    export = DATA / "export"
    model.save(export, include_optimizer=False)
    for path in export.iterdir():
        if path.name != "variables":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": WIDE,
        "block_size": 4,
        "num_rand_blocks": 1,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
    }
    (DATA / "model_config.json").write_text(json.dumps(config, indent=1) + "\n")
    words = generator.integers(1, VOCABULARY, [2, 7])
    types = np.repeat([[0, 0, 0, 1, 1, 1, 1]], 2, axis=0)
    logits, states, pooled = model([words, types])
    np.savez(
        DATA / "forward.npz",
        input_ids=words,
        token_type_ids=types,
        logits=logits,
        last_hidden_state=states,
        pooler_output=pooled,
    )


if __name__ == "__main__":
    main()
