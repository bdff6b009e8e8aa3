"""The checkpoints that the benchmarks convert: real models' names and shapes, random values.

python benchmarks/inputs.py NAME FOLDER
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bundle_writer import write_bundle

Shapes = dict[str, tuple[int, ...]]


class RandomTensors(Mapping[str, np.ndarray]):
    """Random tensors of given shapes, each made when it is asked for."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.pool = np.random.default_rng(0).normal(0, 0.02, 1 << 24).astype(np.float32)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        size = math.prod(shape)
        pool = self.pool[len(name.partition("/")[2]) :]  # the same of what is stored twice
        return (pool[:size] if size <= len(pool) else np.resize(pool, size)).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def bert_config(layers: int, hidden: int) -> dict[str, int | str]:
    return {
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512,
        "num_attention_heads": hidden // 64,
        "num_hidden_layers": layers,
        "type_vocab_size": 2,
        "vocab_size": 30522,
    }


def bert(layers: int, hidden: int) -> Shapes:
    """Of the released BERTs: base is 12 layers of 768, large 24 of 1024."""
    shapes: Shapes = {}

    def dense(scope: str, inputs: int, outputs: int) -> None:
        shapes[f"{scope}/kernel"] = (inputs, outputs)
        shapes[f"{scope}/bias"] = (outputs,)

    def norm(scope: str) -> None:
        shapes[f"{scope}/LayerNorm/gamma"] = shapes[f"{scope}/LayerNorm/beta"] = (hidden,)

    for name, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        shapes[f"bert/embeddings/{name}_embeddings"] = (rows, hidden)
    norm("bert/embeddings")
    for i in range(layers):
        layer = f"bert/encoder/layer_{i}"
        for name in ("query", "key", "value"):
            dense(f"{layer}/attention/self/{name}", hidden, hidden)
        dense(f"{layer}/attention/output/dense", hidden, hidden)
        norm(f"{layer}/attention/output")
        dense(f"{layer}/intermediate/dense", hidden, 4 * hidden)
        dense(f"{layer}/output/dense", 4 * hidden, hidden)
        norm(f"{layer}/output")
    dense("bert/pooler/dense", hidden, hidden)
    dense("cls/predictions/transform/dense", hidden, hidden)
    norm("cls/predictions/transform")
    shapes["cls/predictions/output_bias"] = (30522,)
    shapes["cls/seq_relationship/output_weights"] = (2, hidden)
    shapes["cls/seq_relationship/output_bias"] = (2,)
    return shapes


def with_adam(shapes: Shapes) -> Shapes:
    return {
        name + slot: shape for name, shape in shapes.items() for slot in ("", "/adam_m", "/adam_v")
    }


def rembert() -> Shapes:
    """Google's RemBERT as trained, with slots: 32 layers of 1152, 12.2 GB."""
    vocabulary, embedding, hidden = 250_300, 256, 1152
    shapes = {name: shape for name, shape in bert(32, hidden).items() if name[:4] == "bert"}
    for name, rows in (("word", vocabulary), ("position", 512), ("token_type", 2)):
        shapes[f"bert/embeddings/{name}_embeddings"] = (rows, embedding)
    for name in ("gamma", "beta"):
        shapes[f"bert/embeddings/LayerNorm/{name}"] = (embedding,)
    shapes["bert/encoder/embedding_hidden_mapping_in/kernel"] = (embedding, hidden)
    shapes["bert/encoder/embedding_hidden_mapping_in/bias"] = (hidden,)
    shapes["bert/embeddings/output_embedding"] = (vocabulary, 1664)
    shapes["cls/predictions/output_bias"] = (vocabulary,)
    return with_adam(shapes)


REMBERT_CONFIG = {
    "attention_probs_dropout_prob": 0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0,
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "input_embedding_size": 256,
    "intermediate_size": 4608,
    "max_position_embeddings": 512,
    "num_attention_heads": 18,
    "num_hidden_layers": 32,
    "output_embedding_size": 1664,
    "type_vocab_size": 2,
    "vocab_size": 250_300,
}
STACKS = ("encoder", "decoder")


def t5(heads: int, head: int, feed_forward: int) -> Shapes:
    """24 layers of 1024: T5-large has 3 GB; T5-3B 11 GB, and kernels of 67 MB."""
    shapes: Shapes = {"shared/embedding": (32128, 1024)}
    inner = heads * head
    for stack, sublayers in zip(STACKS, (2, 3), strict=True):
        for i in range(24):
            for j in range(sublayers):
                layer = f"{stack}/block_{i:03d}/layer_{j:03d}"
                shapes[f"{layer}/layer_norm/scale"] = (1024,)
                if j == sublayers - 1:
                    shapes[f"{layer}/DenseReluDense/wi/kernel"] = (1024, feed_forward)
                    shapes[f"{layer}/DenseReluDense/wo/kernel"] = (feed_forward, 1024)
                    continue
                kind = "SelfAttention" if j == 0 else "EncDecAttention"
                for name in "qkv":
                    shapes[f"{layer}/{kind}/{name}"] = (1024, inner)
                shapes[f"{layer}/{kind}/o"] = (inner, 1024)
        bias = f"{stack}/block_000/layer_000/SelfAttention/relative_attention_bias"
        shapes[bias] = (heads, 32)
        shapes[f"{stack}/final_layer_norm/scale"] = (1024,)
    return shapes


def t5_config(heads: int, head: int, feed_forward: int) -> dict[str, Any]:
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": feed_forward,
        "d_kv": head,
        "d_model": 1024,
        "model_type": "t5",
        "num_decoder_layers": 24,
        "num_heads": heads,
        "num_layers": 24,
        "relative_attention_num_buckets": 32,
        "vocab_size": 32128,
    }


# How the names in an original checkpoint differ from those of transformers' TensorFlow classes.
SPELLINGS = (
    (r"\b(layer|block)_0*(\d+)", r"\1_._\2"),
    (r"word_embeddings$", "word_embeddings/weight"),
    (r"(position_embeddings|token_type_embeddings|relative_attention_bias)$", r"\1/embeddings"),
    (r"/([qkvo])$", r"/\1/kernel"),
    (r"/scale$", "/weight"),
)


def hf_bert(layers: int, hidden: int) -> Shapes:
    """The datasets of a TFBertForSequenceClassification's tf_model.h5."""
    shapes = {name: shape for name, shape in bert(layers, hidden).items() if name[:4] == "bert"}
    shapes |= {"classifier/kernel": (hidden, 2), "classifier/bias": (2,)}
    return _datasets("tf_bert_for_sequence_classification", shapes)


def hf_t5(heads: int, head: int, feed_forward: int) -> Shapes:
    """The datasets of a TFT5ForConditionalGeneration's, which has the embeddings three times."""
    shapes = t5(heads, head, feed_forward)
    shared = shapes.pop("shared/embedding")
    stacks = _datasets("tft5_for_conditional_generation", shapes)
    return {f"{top}/shared/shared/embeddings:0": shared for top in ("shared", *STACKS)} | stacks


def _datasets(scope: str, shapes: Shapes) -> Shapes:
    found: Shapes = {}
    for original, shape in shapes.items():
        name = original
        for regex, spelled in SPELLINGS:
            name = re.sub(regex, spelled, name)
        found[f"{name.partition('/')[0]}/{scope}/{name}:0"] = shape
    return found


def write_h5(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """As Keras 2 does (keras/src/saving/legacy/hdf5_format.py), a layer after the other."""
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.partition("/")[0], []).append(name.partition("/")[2])
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group.create_dataset(name, data=tensors[f"{layer}/{name}"])


def many() -> Shapes:
    """A model of 200,000 small variables."""
    shapes: Shapes = {}
    for i in range(50_000):
        scope = f"encoder/layer_{i}"
        shapes[f"{scope}/dense/kernel"] = (4, 8)
        shapes[f"{scope}/dense/bias"] = (8,)
        shapes[f"{scope}/LayerNorm/gamma"] = shapes[f"{scope}/LayerNorm/beta"] = (8,)
    return shapes


MANY_RULES = r"""
[[rule]]
source = 'encoder/layer_(?P<layer>\d+)/dense/kernel'
target = "encoder.{layer}.dense.weight"
ops = ["transpose"]

[[rule]]
source = 'encoder/layer_(?P<layer>\d+)/dense/bias'
target = "encoder.{layer}.dense.bias"

[[rule]]
source = 'encoder/layer_(?P<layer>\d+)/LayerNorm/gamma'
target = "encoder.{layer}.norm.weight"

[[rule]]
source = 'encoder/layer_(?P<layer>\d+)/LayerNorm/beta'
target = "encoder.{layer}.norm.bias"
"""

CONFIG_FILES = {"rembert": "rembert_config.json"}
MODELS = {
    "bert-base": (lambda: bert(12, 768), bert_config(12, 768)),
    "bert-large": (lambda: bert(24, 1024), bert_config(24, 1024)),
    "bert-base-adam": (lambda: with_adam(bert(12, 768)), bert_config(12, 768)),
    "rembert": (rembert, REMBERT_CONFIG),
    "t5-3b": (lambda: t5(32, 128, 16384), None),
    "many": (many, None),
}


HF_MODELS = {
    "hf-bert-base": (
        lambda: hf_bert(12, 768),
        {
            **bert_config(12, 768),
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
        },
    ),
    "hf-t5-large": (lambda: hf_t5(16, 64, 4096), t5_config(16, 64, 4096)),
}


def make(name: str, folder: Path) -> Path:
    """The prefix of that checkpoint, or the HDF5 file, made in `folder` unless it is there."""
    prefix = folder / name / ("tf_model.h5" if name in HF_MODELS else "model.ckpt")
    if prefix.with_name("done").exists():
        return prefix
    if name in HF_MODELS:
        shapes, config = HF_MODELS[name]
        prefix.parent.mkdir(parents=True, exist_ok=True)
        write_h5(prefix, RandomTensors(shapes()))
        prefix.with_name("config.json").write_text(json.dumps(config))
    else:
        shapes, config = MODELS[name]
        write_bundle(prefix, RandomTensors(shapes()))
        if config:
            prefix.with_name(CONFIG_FILES.get(name, "bert_config.json")).write_text(
                json.dumps(config)
            )
        if name == "many":
            prefix.with_name("rules.toml").write_text(MANY_RULES)
    prefix.with_name("done").touch()
    return prefix


if __name__ == "__main__":
    print(make(sys.argv[1], Path(sys.argv[2])))
