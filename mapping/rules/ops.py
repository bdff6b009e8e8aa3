"""All operations that a rule may have, by name."""

from __future__ import annotations

from .arithmetic import Add, Changed, Divide, Elementwise, Multiply, Product, Sum
from .kernels import (
    AttentionIn,
    AttentionOut,
    CellRows,
    ChannelsFirst,
    Conv,
    ConvTranspose,
    Dense,
    Depthwise,
    GRUBias,
)
from .moves import (
    Flip,
    Pad,
    Permute,
    Reorder,
    Repeat,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from .op import MAX_ELEMENTS, Composed, Each, Join, Op, Read, Shape, Step, follow, within
from .several import Concat, Split, Stack, Unstack

__all__ = [
    "MAX_ELEMENTS",
    "OPS",
    "Add",
    "AttentionIn",
    "AttentionOut",
    "CellRows",
    "Changed",
    "ChannelsFirst",
    "Composed",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Depthwise",
    "Divide",
    "Each",
    "Elementwise",
    "Flip",
    "GRUBias",
    "Join",
    "Multiply",
    "Op",
    "Pad",
    "Permute",
    "Product",
    "Read",
    "Reorder",
    "Repeat",
    "Reshape",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Stack",
    "Step",
    "Sum",
    "Transpose",
    "Unsqueeze",
    "Unstack",
    "follow",
    "within",
]

OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        *(Dense, Conv, ConvTranspose, Depthwise, CellRows, GRUBias, AttentionIn, AttentionOut),
        ChannelsFirst,
        *(Transpose, Permute, Reshape, Squeeze, Unsqueeze, Repeat, Slice, Pad, Reorder, Flip),
        *(Add, Multiply, Concat, Stack, Sum, Product, Divide, Split, Unstack),
    )
}
