"""An HDF5 file, held open by h5py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import finalize

import numpy as np

from ..errors import CorruptCheckpointError, MissingExtraError, TFReaderError, UnsupportedError
from ..files import DAMAGED
from ..protocols import File
from .source import Source

SOUND_SINCE = (2, 0, 0)  # 1.14.4 and 1.14.6 crash on one of some thousand damaged files
MAX_TEXT = 1 << 16  # bytes of an attribute that is read


class HDF5File:
    """An HDF5 file. What h5py gives, from `root` on, is used within `guarded` alone.

    Raises MissingExtraError without h5py, UnsupportedError with an old one, CorruptCheckpointError.
    """

    def __init__(self, file: File) -> None:
        try:
            import h5py
        except ImportError:
            raise MissingExtraError(f"reading {file.path}, an HDF5 file,", "h5") from None
        self.h5py: Any = h5py
        self.path = file.path
        self.size = file.size
        if h5py.version.hdf5_version_tuple < SOUND_SINCE:
            raise UnsupportedError(
                f"{self.path}: h5py {h5py.__version__} has HDF5 {h5py.version.hdf5_version}, which "
                "damaged files make overwrite memory; pip install 'h5py>=3.16'"
            )
        self.source = Source(file)
        self._lock = threading.Lock()
        with self.guarded():
            self.source.read_ahead()
            opened = h5py.File(self.source, "r")
            # When Python ends at the latest: libhdf5 closes what is left once there is no Python.
            self.close = finalize(self, _close, opened)
            self.root: Any = h5py.h5g.open(opened.id, b"/")

    @contextmanager
    def guarded(self, what: str = "") -> Iterator[None]:
        """One thread at a time. Turns whatever h5py makes of a damaged file into errors of ours."""
        with self._lock:
            self.source.failure = None
            try:
                yield
            except Exception as error:
                failure, self.source.failure = self.source.failure, None
                _release(error)
                if failure is not None:
                    raise failure from None
                if isinstance(error, TFReaderError):
                    raise
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise CorruptCheckpointError(
                    f"{self.path}: {what}no sound HDF5 file, h5py says: {reason}; {DAMAGED}"
                ) from None

    def group(self, path: str) -> Any:
        return self.h5py.h5g.open(self.root, _stored(path))

    def dataset(self, path: str) -> Any:
        return self.h5py.h5d.open(self.root, _stored(path))

    def text(self, item: Any, name: bytes) -> str:
        """A small text attribute; empty where there is none."""
        h5a = self.h5py.h5a
        if not h5a.exists(item, name):
            return ""
        attribute = h5a.open(item, name)
        is_text = attribute.get_type().get_class() == self.h5py.h5t.STRING
        if not is_text or attribute.shape != () or attribute.get_storage_size() > MAX_TEXT:
            return ""
        values = np.empty((), attribute.dtype)
        attribute.read(values)
        text: object = values.item()
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _release(error: BaseException | None) -> None:
    """Let go of the frames in which it was raised.

    They hold what h5py opened the file with, and libhdf5 crashes where it has to free that when
    there is no Python any more, as long as somebody may keep the error.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _close(file: Any) -> None:
    with suppress(Exception):  # h5py's, of a damaged file
        file.close()


def _stored(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
