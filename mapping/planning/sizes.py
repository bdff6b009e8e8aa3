"""Sizes: those of the config, of the variables' shapes and of counted groups, made to agree."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tfreader.errors import ConfigError

from ..family import Config
from ..findings import Findings, some
from ..rules.schema import NUMBER
from .config import SourceConfig
from .matching import Match


@dataclass(frozen=True)
class Sizes:
    """The sizes that a rule may name, as `config` has them.

    `inferred` gives the readable name of the variable that told a size.
    """

    config: Config
    source: SourceConfig
    inferred: Mapping[str, str] = field(default_factory=dict)

    def knowing(self, found: Mapping[str, int]) -> Sizes:
        """These, and those of `found` that were not known."""
        new = {key: size for key, size in found.items() if key not in self.config}
        return replace(self, config={**self.config, **new})

    def value(self, dimension: int | str) -> int:
        """The value of a dimension: a number or a config key, or products, quotients, sums of them.

        Raises ConfigError for what has no value.
        """
        if isinstance(dimension, int):
            return dimension
        return sum(map(self._product, dimension.split("+")))

    def _product(self, factors: str) -> int:
        first, *rest = re.split("([*/])", factors)
        value = self._factor(first)
        for operator, factor in zip(rest[::2], rest[1::2], strict=True):
            other = self._factor(factor)
            if operator == "/" and (not other or value % other):
                raise ConfigError(f"{factors} is {value} / {other}, which is no integer")
            value = value * other if operator == "*" else value // other
        return value

    def _factor(self, factor: str) -> int:
        if NUMBER.fullmatch(factor):
            return int(factor)
        value = self.config.get(factor)
        if type(value) is not int or abs(value) >= 1 << 63:
            raise ConfigError(
                f"{self.source.origin(factor)}: the rules need an integer {factor!r}; "
                f"give it with --set {factor}=N"
            )
        return value

    def clash(self, dimension: int | str, found: int) -> tuple[str, str]:
        """What is wrong with a size, as the text before and after the names of its variables."""
        if isinstance(dimension, int):
            return f"expected a dimension of {dimension}, found {found} in ", ""
        value = self.value(dimension)
        if dimension in self.inferred:
            return f"{dimension} is {value} in {self.inferred[dimension]}, but {found} in ", ""
        origin = self.source.origin(dimension)
        return f"{dimension} = {value} in {origin}, but the checkpoint has {found} (", ")"


def count_groups(
    counts: Mapping[str, str], active: Iterable[Match], sizes: Sizes, findings: Findings
) -> tuple[dict[str, int], Sizes]:
    """How many of each counted group there are, without gaps and as the config says."""
    seen: dict[str, set[int]] = defaultdict(set)
    for match in active:
        for group in counts.keys() & match.groups.keys():
            seen[group].add(int(match.groups[group]))
    found = {}
    for group, key in counts.items():
        numbers = seen[group]
        number = len(numbers)
        sizes = sizes.knowing({key: number})
        configured = sizes.value(key)
        contiguous = numbers == set(range(number))
        # Where nothing was found, the required rules say what is missing.
        if numbers and contiguous and number != configured:
            findings.cause(
                f"{key} = {configured} in {sizes.source.origin(key)}, but the checkpoint has "
                f"{number} ({group} 0 to {number - 1}): correct the config, or the checkpoint is "
                "incomplete"
            )
            # The rest is made by what there is: the config may say a million.
            sizes = replace(sizes, config={**sizes.config, key: number})
        elif not contiguous:
            # An index may be huge: look no further than where a gap must have shown.
            missing = [i for i in range(min(max(numbers), number + 1)) if i not in numbers]
            findings.problem(f"{group} {some(missing)} of {max(numbers) + 1} is missing")
        found[group] = min(configured, max(number, 1))
    return found, sizes


def bind(
    active: Iterable[Match], sizes: Sizes, shown: Mapping[str, str], findings: Findings
) -> Sizes:
    """Hold the rules' shapes against the config; infer from them what it leaves open."""
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
    found: dict[str, int] = {}
    inferred: dict[str, str] = {}
    for dimension, size, name in checked:  # before products of them are needed
        if _is_key(dimension) and dimension not in sizes.config and dimension not in found:
            found[str(dimension)], inferred[str(dimension)] = size, name
    sizes = replace(sizes.knowing(found), inferred=inferred)
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for dimension, size, name in checked:
        if dimension != "*" and sizes.value(dimension) != size:
            wrong[sizes.clash(dimension, size)].append(name)
    for (before, after), names in wrong.items():
        others = f" and {len(names) - 1} more variables" if len(names) > 1 else ""
        findings.cause(f"{before}{names[0]}{others}{after}")
    return sizes


def _is_key(dimension: int | str) -> bool:
    """Whether a dimension is one config key, and no number, formula or wildcard."""
    return isinstance(dimension, str) and not set("*/+") & set(dimension)
