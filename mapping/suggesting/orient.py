"""Square kernels, which no shape tells from their transposes."""

from __future__ import annotations

from collections.abc import Sequence

from .matching import Pair
from .names import pieces, words
from .reading import Context
from .readings import readings

_EMBEDDING = {"embed", "pos"}


def orient(pairs: Sequence[Pair]) -> None:
    """Decide whether square kernels are transposed: as the other kernels of the model are."""
    plain: list[Pair] = []
    turned: list[Pair] = []
    for pair in pairs:
        weight = pair.target.parts.get("weight")
        kernel = pair.source.parts.get("kernel")
        if weight is None or kernel is None or pair.target.kind != "kernel":
            continue
        if not pair.reading.is_matrix or pair.reading.is_square:
            continue
        if not pair.reading.is_plain:
            turned.append(pair)
        elif not _is_embedding(pair, any_of=True):
            plain.append(pair)
    for pair in pairs:
        if not pair.reading.is_square:
            continue
        if pair.target.kind == "value":
            pair.doubts.append(
                "its shape does not tell which axis is which: as it is, or transposed"
            )
            continue
        options = [*readings(pair.source, pair.target, Context())]
        straight = next((r for r in options if r.is_plain), None)
        if straight is not None and _is_embedding(pair, any_of=False):
            pair.reading = straight
            continue
        doubt = "its shape does not tell: transposed as of a dense layer, or as it is"
        like = [sum(_tells(each, pair) for each in side) for side in (plain, turned)]
        if like[0] >= like[1] and len(plain) > len(turned) * (not like[0]) and straight is not None:
            pair.reading = straight
        if _is_embedding(pair, any_of=True) or like[0]:
            if straight is not None and words(_leaf(pair))[-1:] == ("embed",):
                pair.reading = straight
            pair.doubts.append(doubt)
        elif not like[1] and (plain or not any(_is_as_bare(each, pair) for each in turned)):
            pair.doubts.append(doubt)


def _tells(each: Pair, pair: Pair) -> bool:
    return _leaf(each) == _leaf(pair) and _is_as_bare(each, pair)


def _is_as_bare(each: Pair, pair: Pair) -> bool:
    """Whether a kernel has no bias if the other has none.

    That may be a matrix of the model's own, of which layers of torch's tell nothing.
    """
    return "bias" in pair.target.parts or "bias" not in each.target.parts


def _leaf(pair: Pair) -> str:
    return pieces(pair.source.parts["kernel"].name.rpartition("/")[2]).skeleton


def _is_embedding(pair: Pair, any_of: bool) -> bool:
    kernel = pair.source.parts["kernel"]
    sides = [bool(_EMBEDDING & {*words(n)}) for n in (kernel.name, pair.target.scope)]
    return any(sides) if any_of else all(sides)
