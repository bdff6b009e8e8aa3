"""Operations that are named after layers, so that nobody has to know their axes.

What TensorFlow keeps is told by the documentation of tf.nn.conv2d, tf.nn.conv2d_transpose,
tf.nn.depthwise_conv2d, tf.keras.layers.Dense and MultiHeadAttention, what PyTorch keeps by that of
torch.nn.Conv2d, ConvTranspose2d, Linear and MultiheadAttention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from .moves import Permute, Reshape, Slice, Transpose
from .op import Composed, Shape, Step


def _needs(op: Step, shape: Shape, ranks: range, what: str) -> None:
    if len(shape) not in ranks:
        raise ValueError(f"{op} is for {what}, the shape is {list(shape)}")


@dataclass(frozen=True)
class Conv(Composed):
    """A convolution of one to three axes: [*kernel, in, out] to [out, in, *kernel]."""

    name = "conv"

    def steps(self, shape: Shape) -> Sequence[Step]:
        _needs(self, shape, range(3, 6), "kernels [*kernel, in, out] of one to three axes")
        rank = len(shape)
        return (Permute((rank - 1, rank - 2, *range(rank - 2))),)


@dataclass(frozen=True)
class ConvTranspose(Conv):
    """A transposed convolution: [*kernel, out, in] to [in, out, *kernel]."""

    name = "conv_transpose"


@dataclass(frozen=True)
class Depthwise(Composed):
    """A depthwise one: [*kernel, in, multiplier] to [in * multiplier, 1, *kernel].

    Its torch.nn.Conv2d has groups=in.
    """

    name = "depthwise"

    def steps(self, shape: Shape) -> Sequence[Step]:
        _needs(self, shape, range(3, 6), "kernels [*kernel, in, multiplier] of one to three axes")
        *kernel, channels, multiplier = shape
        rank = len(shape)
        return (
            Permute((rank - 2, rank - 1, *range(rank - 2))),
            Reshape((channels * multiplier, 1, *kernel)),
        )


@dataclass(frozen=True)
class ChannelsFirst(Composed):
    """An axis that is [height, width, channels] in one, as [channels, height, width] in one.

    One of `sizes`, which has any number of axes, may be -1.
    """

    sizes: tuple[int | str, ...]
    axis: int = 0
    name = "channels_first"

    def resolve(self, dimension: Callable[[int | str], int]) -> ChannelsFirst:
        return ChannelsFirst(tuple(map(dimension, self.sizes)), self.axis)

    def steps(self, shape: Shape) -> Sequence[Step]:
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"{self} does not fit the shape {list(shape)}")
        if len(self.sizes) < 2:
            raise ValueError(f"{self} needs the sizes of all axes, channels last")
        axis = self.axis % len(shape)
        sizes = Reshape(self.sizes).shape((shape[axis],))
        before, after, last = axis, len(shape) - axis - 1, axis + len(sizes) - 1
        order = (*range(before), last, *range(before, last), *range(last + 1, last + 1 + after))
        inner = (*shape[:axis], *sizes, *shape[axis + 1 :])
        return Reshape(inner), Permute(order), Reshape(shape)


@dataclass(frozen=True)
class Dense(Composed):
    """A dense layer: [in, out] to [out, in]. Axes of size 1 before these are dropped.

    Behind a flatten, `flatten` has the sizes [height, width, channels] of what is flattened, one of
    which may be -1: PyTorch has the channels first, so the inputs are in another order. Where the
    outputs are made an image, `unflatten` has its sizes, and they are.
    """

    flatten: tuple[int | str, ...] | None = None
    unflatten: tuple[int | str, ...] | None = None
    name = "dense"

    def resolve(self, dimension: Callable[[int | str], int]) -> Dense:
        flatten, unflatten = (
            None if sizes is None else tuple(map(dimension, sizes))
            for sizes in (self.flatten, self.unflatten)
        )
        return Dense(flatten, unflatten)

    def steps(self, shape: Shape) -> Sequence[Step]:
        if len(shape) < 2 or prod(shape[:-2]) != 1:
            raise ValueError(f"{self} is for kernels [in, out], the shape is {list(shape)}")
        plain = [Reshape(shape[-2:])] if len(shape) > 2 else []
        turned = [
            ChannelsFirst(sizes, axis)
            for axis, sizes in enumerate((self.flatten, self.unflatten))
            if sizes is not None
        ]
        return (*plain, *turned, Transpose())


@dataclass(frozen=True)
class CellRows(Composed):
    """The rows of a recurrent cell's one kernel, [in + size, gates * size], of `input` or `state`.

    TensorFlow 1 has the rows of the input first.
    """

    of: str
    gates: int = 4
    name = "cell_rows"

    def steps(self, shape: Shape) -> Sequence[Step]:
        if self.of not in ("input", "state"):
            raise ValueError(f"{self}: of is input or state")
        _needs(self, shape, range(2, 3), "kernels [in + size, gates * size]")
        size, rest = divmod(shape[1], max(self.gates, 1))
        if rest or size > shape[0]:
            raise ValueError(f"{self} does not fit the shape {list(shape)}")
        inputs = shape[0] - size
        return (Slice(0, 0, inputs) if self.of == "input" else Slice(0, inputs, shape[0]),)


@dataclass(frozen=True)
class AttentionIn(Composed):
    """Of Keras' attention, query, key or value: [in, heads, size] to [heads * size, in]."""

    name = "attention_in"

    def steps(self, shape: Shape) -> Sequence[Step]:
        _needs(self, shape, range(3, 4), "kernels [in, heads, size]")
        return Reshape((shape[0], prod(shape[1:]))), Transpose()


@dataclass(frozen=True)
class AttentionOut(Composed):
    """Of Keras' attention, what leaves it: [heads, size, out] to [out, heads * size]."""

    name = "attention_out"

    def steps(self, shape: Shape) -> Sequence[Step]:
        _needs(self, shape, range(3, 4), "kernels [heads, size, out]")
        return Reshape((prod(shape[:2]), shape[2])), Transpose()


@dataclass(frozen=True)
class GRUBias(Composed):
    """The two biases of a Keras GRU, [2, 3 * size], one after the other; `split` parts them.

    torch.nn.GRU applies the reset gate behind the recurrent kernel, as a GRU with reset_after=True
    does; one without has one bias.
    """

    name = "gru_bias"

    def steps(self, shape: Shape) -> Sequence[Step]:
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(
                f"the bias {list(shape)} is that of a GRU with reset_after=False, which applies "
                "the reset gate before the recurrent kernel where torch.nn.GRU applies it behind: "
                "no weights make them equal. Write the cell in PyTorch, and give its kernels to "
                'torch.nn.Linear by ops = ["dense"]'
            )
        return (Reshape((-1,)),)
