"""The checkpoints that the benchmarks convert: real models' names and shapes, random values.

python benchmarks/inputs.py NAME FOLDER
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

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
        pool = self.pool[len(name) :]
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


def t5_3b() -> Shapes:
    """T5-3B: 11 GB, kernels of 67 MB."""
    shapes: Shapes = {"shared/embedding": (32128, 1024)}
    inner = 32 * 128
    for stack, sublayers in (("encoder", 2), ("decoder", 3)):
        for i in range(24):
            for j in range(sublayers):
                layer = f"{stack}/block_{i:03d}/layer_{j:03d}"
                shapes[f"{layer}/layer_norm/scale"] = (1024,)
                if j == sublayers - 1:
                    shapes[f"{layer}/DenseReluDense/wi/kernel"] = (1024, 16384)
                    shapes[f"{layer}/DenseReluDense/wo/kernel"] = (16384, 1024)
                    continue
                kind = "SelfAttention" if j == 0 else "EncDecAttention"
                for name in "qkv":
                    shapes[f"{layer}/{kind}/{name}"] = (1024, inner)
                shapes[f"{layer}/{kind}/o"] = (inner, 1024)
        bias = f"{stack}/block_000/layer_000/SelfAttention/relative_attention_bias"
        shapes[bias] = (32, 32)
        shapes[f"{stack}/final_layer_norm/scale"] = (1024,)
    return shapes


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

MODELS = {
    "bert-base": (lambda: bert(12, 768), bert_config(12, 768)),
    "bert-large": (lambda: bert(24, 1024), bert_config(24, 1024)),
    "bert-base-adam": (lambda: with_adam(bert(12, 768)), bert_config(12, 768)),
    "t5-3b": (t5_3b, None),
    "many": (many, None),
}


def make(name: str, folder: Path) -> Path:
    """The prefix of that checkpoint, made in `folder` unless it is there."""
    prefix = folder / name / "model.ckpt"
    if not prefix.with_name("done").exists():
        shapes, config = MODELS[name]
        write_bundle(prefix, RandomTensors(shapes()))
        if config:
            prefix.with_name("bert_config.json").write_text(json.dumps(config))
        if name == "many":
            prefix.with_name("rules.toml").write_text(MANY_RULES)
        prefix.with_name("done").touch()
    return prefix


if __name__ == "__main__":
    print(make(sys.argv[1], Path(sys.argv[2])))
