"""Sizes: those of the config, of the variables' shapes and of counted groups, made to agree."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from tfreader.errors import ConfigError

from .config import SourceConfig
from .family import Config
from .findings import Findings, some
from .matching import Match
from .schema import NUMBER


class Dimensions:
    """The sizes that a rule may name, as `config` has them.

    What it leaves open is inferred from the variables, in `bind` and `count_groups`.
    """

    def __init__(self, config: Config, source: SourceConfig) -> None:
        self.config = config
        self._source = source
        self._inferred: dict[str, tuple[int, str]] = {}

    def value(self, dimension: int | str) -> int:
        """The value of a dimension: a number or a config key, or a product or quotient of them.

        Raises ConfigError for what has no value.
        """
        if isinstance(dimension, int):
            return dimension
        first, *rest = re.split("([*/])", dimension)
        value = self._factor(first)
        for operator, factor in zip(rest[::2], rest[1::2], strict=True):
            other = self._factor(factor)
            if operator == "/" and (not other or value % other):
                raise ConfigError(f"{dimension} is {value} / {other}, which is no integer")
            value = value * other if operator == "*" else value // other
        return value

    def _factor(self, factor: str) -> int:
        if NUMBER.fullmatch(factor):
            return int(factor)
        value = self.config.get(factor)
        if type(value) is not int or abs(value) >= 1 << 63:
            raise ConfigError(
                f"{self._source.origin(factor)}: the rules need an integer {factor!r}; "
                f"give it with --set {factor}=N"
            )
        return value

    def count_groups(
        self, counts: Mapping[str, str], active: Iterable[Match], findings: Findings
    ) -> dict[str, int]:
        """How many of each counted group there are, without gaps and as the config says."""
        seen: dict[str, set[int]] = defaultdict(set)
        for match in active:
            for group in counts.keys() & match.groups.keys():
                seen[group].add(int(match.groups[group]))
        found = {}
        for group, key in counts.items():
            numbers = seen[group]
            number = len(numbers)
            self.config.setdefault(key, number)
            configured = self.value(key)
            contiguous = numbers == set(range(number))
            # Where nothing was found, the required rules say what is missing.
            if numbers and contiguous and number != configured:
                findings.cause(
                    f"{key} = {configured} in {self._source.origin(key)}, but the checkpoint has "
                    f"{number} ({group} 0 to {number - 1}): correct the config, or the "
                    "checkpoint is incomplete"
                )
                self.config[key] = number  # by which the rest is made, were it a million
            elif not contiguous:
                # An index may be huge: look no further than where a gap must have shown.
                missing = [i for i in range(min(max(numbers), number + 1)) if i not in numbers]
                findings.problem(f"{group} {some(missing)} of {max(numbers) + 1} is missing")
            found[group] = min(configured, max(number, 1))
        return found

    def bind(self, active: Iterable[Match], shown: Mapping[str, str], findings: Findings) -> None:
        """Hold the rules' shapes against the config; infer from them what it leaves open."""
        wrong: dict[tuple[str, str], list[str]] = defaultdict(list)  # message around the names
        checked = []
        for match in active:
            expected, info = match.rule.shape, match.info
            if expected is None or match.source != 0:
                continue
            name = shown[info.name]
            if len(expected) != len(info.shape):
                findings.problem(
                    f"variable {name} has shape {list(info.shape)}, expected "
                    f"[{', '.join(map(str, expected))}]"
                )
                continue
            checked += [(d, size, name) for d, size in zip(expected, info.shape, strict=True)]
        for dimension, size, name in checked:  # before products of them are needed
            if _is_key(dimension) and self.config.get(str(dimension)) is None:
                self.config[str(dimension)] = size
                self._inferred[str(dimension)] = (size, name)
        for dimension, size, name in checked:
            if dimension != "*" and (value := self.value(dimension)) != size:
                wrong[self._clash(dimension, value, size)].append(name)
        for (before, after), names in wrong.items():
            others = f" and {len(names) - 1} more variables" if len(names) > 1 else ""
            findings.cause(f"{before}{names[0]}{others}{after}")

    def _clash(self, dimension: int | str, value: int, size: int) -> tuple[str, str]:
        """What is wrong, as the text before and after the names of the variables."""
        if isinstance(dimension, int):
            return f"expected a dimension of {dimension}, found {size} in ", ""
        if dimension in self._inferred:
            other = self._inferred[dimension][1]
            return f"{dimension} is {value} in {other}, but {size} in ", ""
        origin = self._source.origin(dimension)
        return f"{dimension} = {value} in {origin}, but the checkpoint has {size} (", ")"


def _is_key(dimension: int | str) -> bool:
    """Whether a dimension is one config key, and no number, formula or wildcard."""
    return isinstance(dimension, str) and not set("*/") & set(dimension)
