"""How transformers' TensorFlow classes name and keep what its PyTorch classes have.

A rule of names and one of values for all of them, as transformers 4's
modeling_tf_pytorch_utils.py had them, and measured on the files of 270 classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..rules.ops import Op, Permute, Shape, Squeeze, Transpose

_ALIAS = re.compile(r".*___")  # `mlm___cls` is the layer `cls`
_LIST = "_._"  # `layer_._0` is the layer 0 of the list `layer`
LEAVES: Mapping[str, str] = {
    "kernel": "weight",
    "embeddings": "weight",
    "gamma": "weight",
    "beta": "bias",
    "pointwise_kernel": "pointwise.weight",
    "depthwise_kernel": "depthwise.weight",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_PROJECTIONS = {"emb_projs", "out_projs"}  # of adaptive embeddings; kept as kernels are
# TensorFlow keeps a convolution's kernel as [spatial axes, in, out], also of a transposed one.
_KERNELS: Mapping[tuple[str, int], tuple[Op, ...]] = {
    ("kernel", 2): (Transpose(),),
    ("kernel", 3): (Permute((2, 1, 0)),),
    ("kernel", 4): (Permute((3, 2, 0, 1)),),
    ("pointwise_kernel", 3): (Permute((2, 1, 0)),),
    ("depthwise_kernel", 3): (Permute((1, 2, 0)),),
}


def levels(name: str) -> list[str]:
    """The levels of a variable's name, the model's scope first.

    >>> levels("tf_bert_model/bert/encoder/layer_._0/output/dense/kernel:0")
    ['tf_bert_model', 'bert', 'encoder', 'layer', '0', 'output', 'dense', 'kernel']
    """
    parts = name.partition(":")[0].split("/")
    parts[:-1] = [_ALIAS.sub("", part) for part in parts[:-1]]
    return [level for part in parts for level in part.split(_LIST) if level]


def torch_name(parts: Sequence[str]) -> str:
    """The PyTorch name of these levels.

    >>> torch_name(["bert", "encoder", "layer", "0", "output", "dense", "kernel"])
    'bert.encoder.layer.0.output.dense.weight'
    """
    *modules, leaf = parts
    return ".".join((*modules, LEAVES.get(leaf, leaf)))


def operations(parts: Sequence[str], shape: Shape) -> tuple[Op, ...]:
    """What makes the PyTorch tensor of a variable with these levels and that shape."""
    leaf = parts[-1]
    if _PROJECTIONS.intersection(parts):
        return (Transpose(),)
    if leaf == "bias" and len(shape) == 2 and shape[0] == 1:
        return (Squeeze(0),)
    return _KERNELS.get((leaf, len(shape)), ())


def plain(scope: str) -> str:
    """A scope as the name of its class, in lower case and without the number of a second model.

    >>> plain("tft5_for_conditional_generation_1")
    'tft5forconditionalgeneration'
    """
    return re.sub(r"_\d+$", "", scope).replace("_", "").lower()
