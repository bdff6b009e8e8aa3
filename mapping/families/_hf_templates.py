"""Which tensors a PyTorch class of Hugging Face has, for those that had a TensorFlow counterpart.

hf_templates.json.xz is read when it is first asked for; tests/make_hf_templates.py makes it, from
the classes themselves. A name's numbers of layers are {i}; a number that is the same in every model
of the class is left as it is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import combinations, islice
from typing import Any, NamedTuple

from ._packed import packed

_data = partial(packed, "hf_templates.json.xz")
_MOST_NUMBERS = 6  # of a name: n numbers are looked up in 2 ** n ways, and no model has more
_MOST_LAYERS = 10_000  # a greater number stands for no layer

_MOST_GAPS = 100  # numbers that are told to be missing in one container

Config = Mapping[str, Any]
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Condition:
    """With which values of `keys` a group of tensors was seen, and with which not.

    `defaults` has the values that are meant where config.json has no such key.
    """

    keys: tuple[str, ...]
    defaults: Config
    present: tuple[list[Any], ...]
    absent: tuple[list[Any], ...]

    def holds(self, config: Config) -> bool | None:
        """None if the config does not say, or says what was not tried.

        A number is like those tried on its side, where all with the group are above all without.
        """
        if any(key not in config and key not in self.defaults for key in self.keys):
            return None
        values = [_folded(config.get(key, self.defaults.get(key))) for key in self.keys]
        for found, told in ((True, self.present), (False, self.absent)):
            if any(_same(values, each) for each in told):
                return found
        for at, value in enumerate(values):
            with_, without = (
                [row[at] for row in told if _same([*row[:at], value, *row[at + 1 :]], values)]
                for told in (self.present, self.absent)
            )
            if not (with_ and without and all(map(_is_size, (value, *with_, *without)))):
                continue
            if max(without) < min(with_) and not max(without) < value < min(with_):
                return bool(value >= min(with_))
        return None

    def example(self, config: Config) -> Config:
        """Values of the keys with which the group is there, as near to the config's as may be."""
        own = [config.get(key, self.defaults.get(key)) for key in self.keys]
        rows = [
            {
                key: value
                for key, value, mine in zip(self.keys, row, own, strict=True)
                if not _same([value], [_folded(mine)])
            }
            for row in self.present
        ]
        return min(rows, key=len, default={})


@dataclass(frozen=True)
class Group:
    """Names that are there together, at the same numbers.

    `levels` says, for each {i}, at which of the numbers of their common container they are:
    a(ll), f (all but the first), l (all but the last) or s(ome). A group that some models of the
    class lack is `optional`: `when` tells which, or one of the names `instead` is there.
    """

    names: tuple[str, ...]
    levels: str = ""
    optional: bool = False
    when: Condition | None = None
    instead: tuple[str, ...] = ()


class End(NamedTuple):
    """How many numbers a container has, by the config's key at that path; 0 if that is unknown."""

    size: int
    path: list[str] = []  # noqa: RUF012 - never changed


@dataclass(frozen=True)
class Template:
    """The tensors of one class, whose config's model type and base model's prefix it names.

    `ties` gives the names that are another's in some config; files have them where they are not.
    `counts` gives, by what comes before a first or second {i}, the path of the config's key with
    the number of layers, or the list of those of each outer one. `parts` names the model types that
    a class is composed of, by their config's key.
    """

    name: str
    model_type: str
    base_model_prefix: str
    groups: tuple[Group, ...]
    ties: Mapping[str, str]
    counts: Mapping[str, list[str]]
    parts: Mapping[str, str]

    @cached_property
    def patterns(self) -> frozenset[str]:
        return frozenset(name for group in self.groups for name in group.names)

    def has(self, name: str) -> bool:
        """Whether the class has that tensor, under some config."""
        return bool(_matched(name, self.patterns)[0]) or self.tied_to(name) is not None

    def tied_to(self, name: str) -> str | None:
        """The tensor that this one is, where the config ties it; None if none does."""
        pattern, numbers = _matched(name, self.ties)
        return _filled(self.ties[pattern], numbers) if pattern else None

    def ends(self, config: Config) -> dict[str, End]:
        """How many numbers the containers have, by the config; those of which it says that."""
        ends: dict[str, End] = {}
        for where, path in self.counts.items():  # an outer container comes before those in it
            outer, inner, _ = where.partition("{i}")
            value = at(config, path)
            if not inner:
                ends[where] = End(_count(value), path)
                continue
            for number in range(min(ends.get(outer, End(0)).size, _MOST_GAPS)):
                each = value[number : number + 1] if isinstance(value, list) else [value]
                if each and type(each[0]) is int:
                    ends[_filled(where, (number,))] = End(_count(each[0]), path)
        return ends

    def surplus(self, names: Collection[str], config: Config) -> dict[str, Config]:
        """The tensors of `names` that the class has not with this config, and keys that have them.

        These are layers above the number that the config says, and groups that go with other
        values of a key.
        """
        ends = self.ends(config)
        last: dict[str, tuple[int, str]] = {}
        found: dict[str, str] = {}
        for name in names:
            pattern, numbers = _matched(name, self.patterns)
            found[pattern] = name
            for depth, number in enumerate(numbers):
                container = _filled(_container(pattern, depth), numbers)
                if ends.get(container, End(0)).size > 0 and number >= ends[container].size:
                    last[container] = max(last.get(container, (-1, "")), (number, name))
        more: dict[str, Config] = {}
        for container, (number, name) in last.items():
            path = ends[container].path
            is_list = isinstance(at(config, path), list)
            more[name] = {".".join(path): [] if is_list else number + 1}
        for group in self.groups:
            here = [name for name in group.names if name in found and name not in self.ties]
            if here and group.when is not None and group.when.holds(config) is False:
                more[found[here[0]]] = group.when.example(config)
        return more

    def missing(self, names: Collection[str], config: Config | None = None) -> list[str]:
        """The tensors that the class certainly has and `names` has not, {i} for numbers unknown.

        Without a config, groups that some models lack are asked for only where a part of them is
        there, and layers up to the last of which there is anything.
        """
        found: dict[str, set[Numbers]] = defaultdict(set)
        indices: dict[str, set[int]] = defaultdict(set)
        for name in names:
            pattern, numbers = _matched(name, self.patterns)
            found[pattern].add(numbers)
            for depth, number in enumerate(numbers):
                indices[_filled(_container(pattern, depth), numbers)].add(number)
        ends = self.ends(config or {})
        lacking: list[str] = []
        for group in self.groups:
            seen = {numbers for name in group.names for numbers in found.get(name, ())}
            if not seen and not _needed(group, found, config):
                continue
            wanted = seen | set(_expected(group, seen, indices, ends)) if group.levels else {()}
            for name in group.names:
                lacking += [_filled(name, numbers) for numbers in wanted - found.get(name, set())]
        return sorted(lacking)


def classes() -> tuple[str, ...]:
    """The classes that are known, without TF."""
    return tuple(_data()["classes"])


def float_keys(model_type: str) -> tuple[str, ...]:
    """The config keys whose whole numbers transformers 5 refuses: 1 where 1.0 is meant."""
    return tuple(_data()["floats"].get(model_type, ()))


def templates_for(class_name: str, config: Config | None = None) -> tuple[Template, ...]:
    """The templates of a class; several, or none, for one that is composed of others.

    Empty for unknown classes, and where the config has parts of types that are not in the data.
    """
    return tuple(
        template
        for template in _templates(class_name.removeprefix("TF"))
        if config is None
        or all(
            at(config, [part, "model_type"]) in (None, model_type)
            for part, model_type in template.parts.items()
        )
    )


def _needed(group: Group, found: Mapping[str, set[Numbers]], config: Config | None) -> bool:
    """Whether a group, of which no name is there, has to be."""
    if not group.optional:
        return True
    if group.when is not None:
        return config is not None and bool(group.when.holds(config))
    return bool(group.instead) and not any(found.get(name) for name in group.instead)


def _expected(
    group: Group, seen: Set[Numbers], indices: Mapping[str, set[int]], ends: Mapping[str, End]
) -> Iterator[Numbers]:
    """The numbers at which a group has to be, by those of its containers, and up to `ends`.

    Fewer numbers than {i} where a container is not there.
    """
    outer: list[Numbers] = [()]
    for depth, level in enumerate(group.levels):
        there: dict[Numbers, set[int]] = defaultdict(set)
        for each in seen:
            there[each[:depth]].add(each[depth])
        inner: list[Numbers] = []
        for numbers in outer:
            container = _filled(_container(group.names[0], depth), numbers)
            have = indices.get(container, set())
            if level == "s":
                at = there.get(numbers, set())
            else:
                last = max([*have, ends.get(container, End(0)).size - 1, 0])
                gaps = (n for n in range(last + 1) if n not in have)
                at = have | set(islice(gaps, _MOST_GAPS)) if have else set()
                at -= {"f": {0}, "l": {last}}.get(level, set())
            if not at and (level == "s" or not have):
                yield numbers
            inner += [(*numbers, number) for number in sorted(at)]
        outer = inner
    yield from outer


def _count(value: Any) -> int:
    """That number, or the length of that list; 0 if it is neither."""
    if isinstance(value, list):
        return len(value)
    return value if type(value) is int and value <= _MOST_LAYERS else 0


def at(config: Any, path: list[str]) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _matched(name: str, patterns: Collection[str]) -> tuple[str, Numbers]:
    """The pattern that a name is one of, the one with the fewest {i}, and its numbers; or ""."""
    if "{" in name:
        return "", ()
    if name in patterns:
        return name, ()
    tokens = name.split(".")
    places = [place for place, token in enumerate(tokens) if _is_number(token)]
    if len(places) > _MOST_NUMBERS:
        return "", ()
    for count in range(1, len(places) + 1):
        for chosen in combinations(places, count):
            pattern = ".".join("{i}" if i in chosen else token for i, token in enumerate(tokens))
            if pattern in patterns:
                return pattern, tuple(int(tokens[place]) for place in chosen)
    return "", ()


def _is_number(token: str) -> bool:
    return (
        token.isascii()
        and token.isdecimal()
        and str(int(token[:6])) == token
        and int(token) < _MOST_LAYERS
    )


def _container(pattern: str, depth: int) -> str:
    return "{i}".join(pattern.split("{i}")[: depth + 1])


def _filled(pattern: str, numbers: Numbers) -> str:
    """The pattern with its first {i} replaced by the numbers."""
    pieces = pattern.split("{i}")
    text = pieces[0]
    for at, piece in enumerate(pieces[1:]):
        text += (str(numbers[at]) if at < len(numbers) else "{i}") + piece
    return text


def _folded(value: Any) -> Any:
    """A key that is false is one that is not there, for the few that a class reads if given."""
    return None if value is False else value


def _is_size(value: Any) -> bool:
    return type(value) in (int, float)


def _same(values: list[Any], others: list[Any]) -> bool:
    return json.dumps(values) == json.dumps(others)


@cache
def _templates(class_name: str) -> tuple[Template, ...]:
    found = _data()["classes"].get(class_name)
    return tuple(_template(class_name, found, each) for each in found["templates"]) if found else ()


def _template(class_name: str, kind: dict[str, Any], data: dict[str, Any]) -> Template:
    groups = tuple(
        Group(
            names=tuple(group["names"]),
            levels=group.get("levels", ""),
            optional="when" in group,
            when=_condition(group.get("when")),
            instead=tuple(group.get("or", ())),
        )
        for group in data["groups"]
    )
    return Template(
        class_name,
        kind["type"],
        kind["prefix"],
        groups,
        data["ties"],
        data["counts"],
        data.get("parts", {}),
    )


def _condition(data: dict[str, Any] | None) -> Condition | None:
    if data is None:
        return None
    return Condition(
        tuple(data["keys"]), data["defaults"], tuple(data["present"]), tuple(data["absent"])
    )
