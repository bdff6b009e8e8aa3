"""What `tfreader show` prints or saves of a variable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from tfreader.checkpoint import Box, part_of, whole
from tfreader.dtypes import Array
from tfreader.errors import OutputError, UnsupportedError
from tfreader.statistics import Statistics, native, parts

from .listing import STATISTICS, number
from .show import printable, shape, size, terminal_width

if TYPE_CHECKING:
    from tfreader import Checkpoint, TensorInfo

PRINTED = 1000  # values; of more those in the middle are left out, as numpy does
CHOSEN = 100_000  # of rows that were asked for
_EDGES = (3, 1)  # how many are printed at each end of an axis
_LONGEST = 200  # of a string that is printed
_LINE = 100
_ROWS = re.compile(r"(-?[0-9]{1,18})|(-?[0-9]{1,18})?:(-?[0-9]{1,18})?")


def rows_of(text: str, info: TensorInfo, where: str) -> range:
    """The rows of --rows. Raises click.UsageError, UnsupportedError where there are none such."""
    match = _ROWS.fullmatch(text)
    if match is None:
        raise click.UsageError(f"--rows {text!r}: expected A:B, A:, :B or one number")
    if not info.shape:
        raise UnsupportedError(f"{where} is a scalar, without rows; leave --rows out")
    one, first, last = (int(group) if group else None for group in match.groups())
    length = info.shape[0]
    if one is not None:
        rows = range(length)[one:][:1] if -length <= one < length else range(0)
    else:
        rows = range(length)[first:last]
    if not rows:
        raise UnsupportedError(f"{where} has {length} rows, of which --rows {text} are none")
    return rows


class Chosen:
    """A variable, or some rows of it."""

    def __init__(self, checkpoint: Checkpoint, info: TensorInfo, rows: range | None) -> None:
        self.checkpoint = checkpoint
        self.info = info
        self.rows = rows
        self.shape = info.shape if rows is None else (len(rows), *info.shape[1:])
        self.count = prod(self.shape)
        self.name = checkpoint.shown(info.name)
        self.where = f"{checkpoint.path}: variable {self.name!r}"
        self.said = f"{info.dtype} {shape(self.shape)}"
        if rows is not None:
            self.said += f", rows {rows.start}:{rows.stop} of {info.shape[0]}"

    def read(self) -> Array:
        rows = None if self.rows is None else slice(self.rows.start, self.rows.stop)
        return self.checkpoint.read(self.info.name, rows)

    def parts(self) -> Iterator[Array]:
        return parts(self.checkpoint, self.info.name, self.rows)


def values_lines(chosen: Chosen) -> Iterator[str]:
    """The values as numpy prints them, below what they are like."""
    stats = Statistics()
    for part in chosen.parts():
        stats.add(part)
    yield f"{printable(chosen.name)}: {chosen.said}, {size(_nbytes(chosen))}"
    kind = "" if stats.of == "values" else f" (of the {stats.of})"
    told = ", ".join(f"{key} {number(getattr(stats, key))}" for key in STATISTICS)
    yield told.replace(" ,", " -,") + kind
    edge = None
    if chosen.count > (PRINTED if chosen.rows is None else CHOSEN):
        long = sum(length > 2 * _EDGES[0] for length in chosen.shape)
        edge = _EDGES[(2 * _EDGES[0] + 1) ** long > CHOSEN]
    printed: str = np.array2string(
        native(chosen.read() if edge is None else _edges(chosen, edge)),
        max_line_width=terminal_width() or _LINE,
        threshold=0 if edge else CHOSEN,
        edgeitems=edge or _EDGES[0],
        formatter={"object": _string} if chosen.info.dtype == "string" else None,  # type: ignore
    )
    yield printed


def _nbytes(chosen: Chosen) -> int:
    nbytes = chosen.info.nbytes or 0
    return nbytes * chosen.count // max(1, prod(chosen.info.shape))


def _string(value: bytes) -> str:
    shown = repr(value[:_LONGEST])
    return shown if len(value) <= _LONGEST else f"{shown}… ({len(value)} bytes)"


def _edges(chosen: Chosen, edge: int) -> Array:
    """The values at the ends of each axis, with one in between that stands for all others.

    Of such an array numpy prints what it would of the whole.
    """
    reader = chosen.checkpoint.reader(chosen.info.name)
    values = None if reader.in_parts and chosen.info.dtype.itemsize else chosen.read()
    shift = chosen.rows.start if chosen.rows is not None and values is None else 0

    def read(box: Box) -> Array:
        if values is not None:
            return part_of(values, box)
        first = range(box[0].start + shift, box[0].stop + shift)
        return reader.read((first, *box[1:]))

    ends = [
        [(indices, slice(None))]
        if len(indices) <= 2 * edge
        else [(indices[:edge], slice(edge)), (indices[-edge:], slice(edge + 1, None))]
        for indices in whole(chosen.shape)
    ]
    found = np.zeros(
        [min(length, 2 * edge + 1) for length in chosen.shape], chosen.info.dtype.numpy
    )
    for corner in product(*ends):
        found[tuple(place for _, place in corner)] = read(tuple(box for box, _ in corner))
    return found


def values_data(chosen: Chosen) -> dict[str, Any]:
    """The values as plain data, for JSON. Raises UnsupportedError where they are too many."""
    if chosen.count > CHOSEN:
        raise UnsupportedError(
            f"{chosen.where} has {chosen.count:,} values, of which JSON is printed of at most "
            f"{CHOSEN:,}; choose some with --rows, or save them with --output FILE.npy"
        )
    values = chosen.read()
    stats = Statistics()
    stats.add(values)
    return {
        "path": chosen.checkpoint.path,
        "name": chosen.info.name,
        "dtype": chosen.info.dtype,
        "shape": list(chosen.shape),
        "rows": None if chosen.rows is None else [chosen.rows.start, chosen.rows.stop],
        "stats": stats.to_data(),
        "values": _plain(
            values.tolist() if chosen.info.dtype == "bool" else native(values).tolist()
        ),
    }


def _plain(value: Any) -> Any:
    """Values that JSON has: of others their spelling in Python, of complex ones both parts."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def save(chosen: Chosen, output: str) -> str:
    """Save the values as a .npy file, whole or not at all; returns what was saved.

    Raises OutputError, UnsupportedError where numpy has no type for the strings.
    """
    from tfreader.mapping.output import check_inputs, check_output, staged
    from tfreader.paths import as_path

    place = as_path(output)
    if not output.endswith(".npy"):
        raise OutputError(f"{output}: values are saved as .npy; name a file that ends so")
    check_output(place, False, chosen.checkpoint.path)
    folder = as_path(chosen.checkpoint.path).parent
    check_inputs([place], [folder / source.name for source in chosen.checkpoint.files()])
    dtype, pieces = _saved(chosen)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": chosen.shape,
    }
    with (
        staged(place, is_folder=False, durable=False) as stage,
        (stage / place.name).open("wb") as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece.astype(dtype, copy=False)).data)
    same = "" if dtype == chosen.info.dtype.numpy else f" as {dtype}, which holds the same values"
    return f"{output}: {printable(chosen.name)}, {chosen.said}{same}"


def _saved(chosen: Chosen) -> tuple[np.dtype[Any], Iterator[Array]]:
    """The type in which numpy saves the values, and the values."""
    dtype = chosen.info.dtype.numpy
    if dtype is None or (dtype.kind in "biufc" and dtype.isbuiltin == 1):  # not ml_dtypes' own
        return dtype or np.dtype(object), chosen.parts()
    if chosen.info.dtype != "string":
        return native(np.empty(0, dtype)).dtype, map(native, chosen.parts())
    values = chosen.read()
    strings: Sequence[bytes] = values.ravel().tolist()
    width = max(map(len, strings), default=1) or 1
    if any(string.endswith(b"\0") for string in strings):
        problem = "strings that end in NUL, which .npy would lose"
    elif width * len(strings) > 4 * sum(map(len, strings)) + (64 << 20):
        problem = "strings of very different lengths, which .npy pads to the longest"
    else:
        return np.dtype(f"S{width}"), iter([values])
    raise UnsupportedError(
        f"{chosen.where} has {problem}; read it from Python: "
        f"tfreader.open({chosen.checkpoint.path!r})[{chosen.name!r}]"
    )
