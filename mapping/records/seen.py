"""What else is made of a model's values while they are compared, so that they are read once."""

from __future__ import annotations

from tfreader.checkpoint import Checkpoint
from tfreader.checksum import HASHES, Hash
from tfreader.dtypes import Array, bytes_of
from tfreader.statistics import Statistics, statistics


class Seen:
    """The checksums of tensors, of the kind that is asked for, and on demand their statistics.

    Parts of several tensors come in turn, those of one in the order of its bytes.
    """

    def __init__(self, checksum: str | None = None, has_statistics: bool = False) -> None:
        self._checksum = checksum
        self._has_statistics = has_statistics
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._hashes: dict[str, Hash] = {}
        self._sizes: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.statistics: dict[str, Statistics] = {}

    def add(self, name: str, values: Array) -> None:
        self._sizes[name] = self._sizes.get(name, 0) + values.nbytes
        if self._checksum is not None:
            digest = self._hashes.setdefault(name, HASHES[self._checksum]())
            digest.update(bytes_of(values).data)
        if self._has_statistics:
            self.statistics.setdefault(name, Statistics(has_histogram=True)).add(values)

    def finish(self, weights: Checkpoint) -> None:
        """Forget tensors of which a part was not seen, and take the statistics of those too."""
        whole = {name for name in weights if self._sizes.get(name) == weights.info(name).nbytes}
        self.digests = {name: self._hashes[name].hexdigest() for name in whole & {*self._hashes}}
        if self._has_statistics:
            for name in {*weights} - whole:
                self.statistics[name] = statistics(weights, name, has_histogram=True)
