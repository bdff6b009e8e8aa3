"""HDF5 files: which datasets there are and where their values lie, as far as h5py tells.

libhdf5 walks the groups and reads what is stored in any but the plain way. It never gets to open
another file: what HDF5 keeps elsewhere (external links, external storage, virtual datasets) is
listed, but not read. It is asked for sizes before it is asked for values.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .dtypes import DTYPES, Array, DType
from .errors import CorruptCheckpointError, MissingExtraError, TFReaderError, UnsupportedError
from .files import DAMAGED
from .hdf5_source import HeapError, Source
from .protocols import File

LISTS = ("layer_names", "layer_names0")  # Keras 2's; the second where there are more than 64 KB
SOUND_SINCE = (2, 0, 0)  # 1.14.4 and 1.14.6 crash on one of some thousand damaged files
MAX_OBJECTS = 200_000  # groups, datasets and links
MAX_NAME = 2000  # bytes of a path
MAX_TEXT = 1 << 16  # bytes of an attribute that is read
PLAUSIBLE = 64 << 20  # bytes that a dataset may have, however few are stored
RATIO = 100  # how much larger others may be than what is stored; weights hardly shrink to a half
_REFERENCE = 16  # bytes of a reference to a string
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # those within h5py
_PIPELINES = [
    [*shuffle, *compress, *check]
    for shuffle in ([], ["shuffle"])
    for compress in ([], ["deflate"], ["lzf"])
    for check in ([], ["fletcher32"])
]
_BY_NUMPY = {
    dtype.numpy: dtype for dtype in DTYPES.values() if dtype.itemsize and not dtype.startswith("q")
}
_BY_NAME = {str(dtype): dtype for dtype in _BY_NUMPY.values()}
_OPAQUE = DType("opaque", 0)
_BFLOAT16 = DTYPES[14]
_STRING = DTYPES[7]


class Dataset(NamedTuple):
    """A dataset as its file declares it.

    `offset` is where its values lie, where they lie as in memory; else libhdf5 has to read them.
    A dtype without a numpy type stands for one that has no values to give, and says why.
    """

    path: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int | None
    offset: int | None = None


class Contents(NamedTuple):
    """What is in an HDF5 file.

    `names` are the attributes "name" of groups by their paths, `marks` the names of the root's
    groups, with a slash behind them, and those of LISTS that it has. `notes` tell what was assumed,
    and which links were not followed.
    """

    datasets: list[Dataset]
    names: dict[str, str]
    marks: set[str]
    notes: list[str]


class HDF5File:
    """An HDF5 file, opened by h5py.

    Raises MissingExtraError without it, UnsupportedError with an old one, CorruptCheckpointError.
    """

    def __init__(self, file: File) -> None:
        try:
            import h5py
        except ImportError:
            raise MissingExtraError(f"reading {file.path}, an HDF5 file,", "h5") from None
        self._h5py = h5py
        self.path = file.path
        if h5py.version.hdf5_version_tuple < SOUND_SINCE:
            raise UnsupportedError(
                f"{self.path}: h5py {h5py.__version__} has HDF5 {h5py.version.hdf5_version}, which "
                "damaged files make overwrite memory; pip install 'h5py>=3.16'"
            )
        self._source = Source(file)
        self._size = file.size
        self._lock = threading.Lock()
        with self._guarded():
            self._file = h5py.File(self._source, "r")
            self._root = h5py.h5g.open(self._file.id, b"/")

    def close(self) -> None:
        with suppress(Exception):  # h5py's, of a damaged file
            self._file.close()

    @contextmanager
    def _guarded(self, what: str = "") -> Iterator[None]:
        """One thread at a time. Turns whatever h5py makes of a damaged file into errors of ours."""
        with self._lock:
            self._source.failure = None
            try:
                yield
            except Exception as error:
                if self._source.failure is not None:
                    raise self._source.failure from None
                if isinstance(error, TFReaderError):
                    raise
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise CorruptCheckpointError(
                    f"{self.path}: {what}no sound HDF5 file, h5py says: {reason}; {DAMAGED}"
                ) from None

    def contents(self) -> Contents:
        """Everything that hard links lead to. Raises CorruptCheckpointError, UnsupportedError."""
        found = Contents([], {}, set(), [])
        with self._guarded():
            groups = self._walk(found)
            self._source.guard.with_heaps = True  # no virtual dataset is opened from here on
            for path in groups:
                if own := self._text(self._h5py.h5g.open(self._root, _stored(path)), b"name"):
                    found.names[path] = own
            found.datasets[:] = sorted(self._typed(found))
        return found

    def _walk(self, found: Contents) -> list[str]:
        """Find datasets, without what texts in heaps tell. Returns groups that may have a name."""
        h5d, h5g, h5l = self._h5py.h5d, self._h5py.h5g, self._h5py.h5l
        exists = self._h5py.h5a.exists
        found.marks.update(name for name in LISTS if exists(self._root, name.encode()))
        groups = [("", self._root)]
        # h5o.get_info would add up all nodes of a group's tree, which may lead in a circle.
        seen = {h5g.get_objinfo(self._root, b".").objno[0]}
        skipped: dict[str, list[str]] = {}
        named: list[str] = []
        count = 0
        while groups:
            parent, group = groups.pop()
            links = self._links(parent, group, MAX_OBJECTS - count)
            count += len(links)
            for name, kind, address in links:
                path = parent + name.decode("utf-8", "surrogateescape")
                if kind == h5l.TYPE_EXTERNAL:
                    found.datasets.append(Dataset(path, DType("external link", 0), (), None))
                    continue
                if kind != h5l.TYPE_HARD:
                    soft = "soft link" if kind == h5l.TYPE_SOFT else "link of a kind of its own"
                    skipped.setdefault(soft, []).append(path)
                    continue
                if address in seen:
                    skipped.setdefault("second link to a group", []).append(path)
                    continue
                item = self._item(group, name)
                if item is None:
                    found.datasets.append(Dataset(path, DType("virtual dataset", 0), (), None))
                elif isinstance(item, h5d.DatasetID):
                    found.datasets.append(self._describe(path, item))
                elif isinstance(item, h5g.GroupID):
                    seen.add(address)
                    groups.append((path + "/", item))
                    if not parent:
                        found.marks.add(path + "/")
                    if name == b"vars":
                        named.append(path)
        for kind_of, paths in skipped.items():
            found.notes.append(f"a {kind_of} was not followed: {_some(paths)}")
        return named

    def _item(self, group: Any, name: bytes) -> Any:
        """What a hard link leads to; None for a virtual dataset.

        libhdf5 2.0 crashes on damaged ones when it opens them (H5Shyper.c): their heap is not read.
        """
        try:
            item = self._h5py.h5o.open(group, name)
        except Exception:
            if not isinstance(self._source.failure, HeapError):
                raise
            self._source.failure = None
            return None
        is_dataset = isinstance(item, self._h5py.h5d.DatasetID)
        # To ask for its shape would open the files that it is made of.
        is_virtual = is_dataset and (item.get_create_plist().get_layout() == self._h5py.h5d.VIRTUAL)
        return None if is_virtual else item

    def _typed(self, found: Contents) -> Iterator[Dataset]:
        """The datasets; Keras 3 stores values that HDF5 has no type for as bytes, named beside."""
        untyped: list[str] = []
        for dataset in found.datasets:
            if dataset.dtype != _OPAQUE:
                yield dataset
                continue
            stored = self._h5py.h5d.open(self._root, _stored(dataset.path))
            size = stored.get_type().get_size()
            dtype = _BY_NAME.get(self._text(stored, b"dtype"))
            if dtype is None and size == 2:
                dtype = _BFLOAT16
                untyped.append(dataset.path)
            if dtype is not None and dtype.itemsize == size:
                yield dataset._replace(dtype=dtype)
            else:
                yield dataset._replace(dtype=DType(f"opaque[{size}]", 0), offset=None)
        if untyped:
            found.notes.append(
                "taken for bfloat16, as Keras 3 stores it, are 2 bytes a value, without a type: "
                f"{_some(untyped)}"
            )

    def _links(self, parent: str, group: Any, limit: int) -> list[tuple[bytes, int, int]]:
        """The names in a group, each with its kind of link, and where that leads to."""
        links: list[tuple[bytes, int, int]] = []

        def is_sound(name: bytes) -> bool:
            return 0 < len(name) <= MAX_NAME - len(parent) and name != b"." and b"/" not in name

        def add(name: bytes, link: Any) -> bool | None:
            links.append((name, link.type, link.u))
            return None if is_sound(name) and len(links) <= limit else True  # which ends it

        group.links.iterate(add, info=True)
        if len(links) > limit:
            raise UnsupportedError(f"{self.path}: more than {MAX_OBJECTS} groups and datasets")
        if links and not is_sound(links[-1][0]):
            raise CorruptCheckpointError(
                f"{self.path}: impossible name {links[-1][0][:100]!r} in group {parent[:100]!r}; "
                f"{DAMAGED}"
            )
        return links

    def _text(self, item: Any, name: bytes) -> str:
        """A small text attribute; empty where there is none."""
        h5a = self._h5py.h5a
        if not h5a.exists(item, name):
            return ""
        attribute = h5a.open(item, name)
        is_text = attribute.get_type().get_class() == self._h5py.h5t.STRING
        if not is_text or attribute.shape != () or attribute.get_storage_size() > MAX_TEXT:
            return ""
        values = np.empty((), attribute.dtype)
        attribute.read(values)
        text: object = values.item()
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)

    def _describe(self, path: str, stored: Any) -> Dataset:
        layout = stored.get_create_plist().get_layout()
        space = stored.get_space()
        if space.get_simple_extent_type() == self._h5py.h5s.NULL:
            return Dataset(path, DType("null dataspace", 0), (), None)
        shape = tuple(map(int, space.get_simple_extent_dims()))
        kind = stored.get_type()
        size: int | None = kind.get_size()
        dtype, is_plain = self._dtype(kind)
        if kind.get_class() == self._h5py.h5t.STRING and kind.is_variable_str():
            size = None
        nbytes = None if size is None else prod(shape) * size
        is_plain &= layout == self._h5py.h5d.CONTIGUOUS and bool(nbytes)
        return Dataset(path, dtype, shape, nbytes, stored.get_offset() if is_plain else None)

    def _dtype(self, kind: Any) -> tuple[DType, bool]:
        """The type of a dataset's values, and whether they are stored as numpy has them."""
        h5t = self._h5py.h5t
        if kind.get_class() == h5t.STRING:
            return _STRING, False
        if kind.get_class() == h5t.OPAQUE:
            return _OPAQUE, True
        try:
            dtype = kind.dtype
        except (TypeError, ValueError):
            return DType("unknown", 0), False
        found = _BY_NUMPY.get(dtype.newbyteorder("="))
        if found is None:
            is_reference = kind.get_class() == h5t.REFERENCE
            return DType("reference" if is_reference else str(dtype)[:80], 0), False
        return found, dtype.isnative and h5t.py_create(dtype).equal(kind)

    def check(self, dataset: Dataset) -> None:
        """Raise what `read` raises, but for what only its values tell."""
        with self._guarded(f"variable {dataset.path!r}: "):
            self._opened(dataset)

    def read(self, dataset: Dataset) -> Array:
        """All values of a dataset that has a numpy dtype.

        Raises CorruptCheckpointError, UnsupportedError where it is stored in a way that is not
        read, or where it would become much larger than what is stored.
        """
        assert dataset.dtype.numpy is not None
        with self._guarded(f"variable {dataset.path!r}: "):
            stored = self._opened(dataset)
            if dataset.dtype == "string":
                return self._strings(stored, dataset)
            values = np.empty(dataset.shape, dataset.dtype.numpy)
            if not values.size:
                return values
            kind = stored.get_type()
            if kind.get_class() == self._h5py.h5t.OPAQUE:
                self._read(stored, values.view(f"V{values.itemsize}"), kind)
            else:
                self._read(stored, values)
            return values

    def _read(self, stored: Any, values: Array, kind: Any = None) -> None:
        every = self._h5py.h5s.ALL
        stored.read(every, every, values, mtype=kind)

    def _strings(self, stored: Any, dataset: Dataset) -> Array:
        values = np.empty(dataset.shape, object)
        if dataset.nbytes is not None:
            fixed = np.empty(dataset.shape, f"S{stored.get_type().get_size()}")
            if fixed.size:
                self._read(stored, fixed)
            values[...] = fixed
            return values
        self._check_lengths(stored, dataset, values.size)
        each = self._h5py.Dataset(stored)
        for index in np.ndindex(dataset.shape):
            values[index] = each[index]
        return values

    def _check_lengths(self, stored: Any, dataset: Dataset, count: int) -> None:
        """Raise where strings are too long: libhdf5 takes memory for them before it looks.

        Each reference has a length of 4 bytes first; all may be to the same bytes.
        """
        offset = stored.get_offset()
        if offset is None and count:
            raise UnsupportedError(
                f"{self.path}: variable {dataset.path!r} has strings in chunks, which are not "
                "read; `h5repack -f NONE -l CONTI` makes a plain file of it"
            )
        references = self._source.peek(offset, count * _REFERENCE) if count else bytearray()
        lengths = np.frombuffer(references, "<u4")[::4].astype(np.int64)
        total = int(lengths.sum())
        if (count and lengths.max() > self._size) or total > max(PLAUSIBLE, RATIO * self._size):
            raise self._implausible(dataset, f"{total} bytes of strings", self._size)

    def _opened(self, dataset: Dataset) -> Any:
        """The dataset, once it is known that reading it takes no more than it may."""
        h5d = self._h5py.h5d
        stored = h5d.open(self._root, _stored(dataset.path))
        how = stored.get_create_plist()
        width = _REFERENCE if dataset.nbytes is None else stored.get_type().get_size()
        size = prod(dataset.shape) * width
        if how.get_external_count():
            raise UnsupportedError(
                f"{self.path}: variable {dataset.path!r} has its values in other files (external "
                "storage), which are not opened; `h5repack -l CONTI` puts them into this one"
            )
        if how.get_layout() == h5d.CHUNKED:
            self._check_chunks(stored, how, dataset, width)
        elif how.get_layout() == h5d.CONTIGUOUS and size:
            offset = stored.get_offset()
            if offset is None or stored.get_storage_size() != size:
                raise self._unwritten(dataset, f"its {size} bytes")
            if not 0 <= offset <= self._size - size:
                raise CorruptCheckpointError(
                    f"{self.path}: variable {dataset.path!r} ends at byte {offset + size}, the "
                    f"file has {self._size}; {DAMAGED}"
                )
        return stored

    def _check_chunks(self, stored: Any, how: Any, dataset: Dataset, width: int) -> None:
        filters = [how.get_filter(i)[0] for i in range(how.get_nfilters())]
        names = [_FILTERS.get(number, f"filter {number}") for number in filters]
        if names not in _PIPELINES:
            raise UnsupportedError(
                f"{self.path}: variable {dataset.path!r} is stored through {' and '.join(names)}, "
                "which is not read; `h5repack -f NONE -l CONTI` makes a plain file of it"
            )
        chunk = how.get_chunk()
        counts = [-(-n // c) for n, c in zip(dataset.shape, chunk, strict=True)]
        one = prod(chunk) * width
        if prod(counts) * one > max(PLAUSIBLE, RATIO * stored.get_storage_size()):
            raise self._implausible(
                dataset, f"{prod(counts) * one} bytes", stored.get_storage_size()
            )
        found: list[Any] = []

        def add(chunk: Any) -> None:
            found.append(chunk)

        if prod(counts):
            stored.chunk_iter(add)
        if len(found) < prod(counts):
            raise self._unwritten(dataset, f"{prod(counts) - len(found)} of {prod(counts)} chunks")
        for each in found:
            self._check_chunk(stored, each, names, one, dataset)

    def _check_chunk(
        self, stored: Any, chunk: Any, names: list[str], size: int, dataset: Dataset
    ) -> None:
        """Raise unless a chunk has just the bytes that it should: libhdf5 would make them all."""
        if not 0 <= chunk.size <= self._size:
            raise CorruptCheckpointError(
                f"{self.path}: variable {dataset.path!r}: impossible chunk size; {DAMAGED}"
            )
        used = [name for i, name in enumerate(names) if not chunk.filter_mask >> i & 1]
        found = chunk.size - (4 if "fletcher32" in used else 0)
        if "deflate" in used:
            _, data = stored.read_direct_chunk(chunk.chunk_offset)
            inflated = zlib.decompressobj().decompress(data[:found], size + 1)
            found = len(inflated)
        if "lzf" not in used and found != size:
            raise CorruptCheckpointError(
                f"{self.path}: variable {dataset.path!r}: a chunk at {list(chunk.chunk_offset)} "
                f"has {'more' if found > size else 'less'} than {size} bytes; {DAMAGED}"
            )

    def _implausible(self, dataset: Dataset, what: str, stored: int) -> UnsupportedError:
        return UnsupportedError(
            f"{self.path}: variable {dataset.path!r} would take {what}, {stored} are stored: more "
            f"than {RATIO} times as much is not read; if the file is your own, "
            "`h5repack -f NONE -l CONTI` makes a plain one of it"
        )

    def _unwritten(self, dataset: Dataset, what: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{self.path}: variable {dataset.path!r}: {what} were never written; save it again"
        )


def _stored(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _some(paths: list[str]) -> str:
    return repr(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
