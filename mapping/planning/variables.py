"""A checkpoint's variables as rules see them: by which names, and without what training left."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import CheckpointNotFoundError, PlanError
from tfreader.object_graph import ObjectGraph
from tfreader.training import Training, training_state

from ..family import Variables
from ..findings import Findings, count, some
from ..rules.rule import RuleSet


@dataclass(frozen=True)
class Seen:
    """All variables by their keys.

    `names` are those by which rules may know one: as stored, as shown, all others; under a scope
    those below it, without it, and then its own name. `shown` is what users read. `training` is
    what looks like training state. `nameless` says why readable names cannot be read, if so.
    """

    path: str
    infos: Mapping[str, TensorInfo]
    names: Mapping[str, tuple[str, ...]]
    shown: Mapping[str, str]
    training: Mapping[str, Training]
    scope: str
    format: str
    nameless: str = ""

    def names_of(self, key: str) -> tuple[str, ...]:
        """The names of a variable, also of one that is missing, but for its moving average."""
        if key in self.names:
            return self.names[key]
        return _below(self.scope, (key,))

    def name(self, key: str) -> str:
        """The readable name of a variable, also of one that is missing."""
        return self.shown.get(key, key)

    def examples(self) -> list[str]:
        """The readable names of what may be a weight."""
        return [self.shown[key] for key in self.infos if key not in self.training]


@dataclass(frozen=True)
class Chosen:
    """The variables to map, by the key whose names count for them; the others with the reason.

    `explicit` are those that look like training state, with the sources that name them all the
    same: no others are for them.
    """

    variables: Mapping[str, TensorInfo]
    dropped: Mapping[str, str]
    explicit: Mapping[str, Collection[re.Pattern[str]]]


def look(checkpoint: Checkpoint, scope: str, findings: Findings) -> Seen:
    """What there is. Raises PlanError where nothing lies under the scope."""
    infos = {info.name: info for info in checkpoint.infos}
    graph, nameless = _object_graph(checkpoint, findings)
    shown = {key: key if graph is None else graph.name(key) for key in infos}
    names = {key: checkpoint.names(key) for key in infos}
    scope = scope.strip("/")
    if scope:
        below = {key: _within(scope, key, own, graph) for key, own in names.items()}
        if not any(below.values()):
            every = (name for own in names.values() for name in own)
            tops = sorted({name.partition("/")[0] for name in every if "/" in name})
            raise PlanError(
                f"{checkpoint.path}: no variable lies under --scope {scope}; the outermost scopes "
                f"are {some(tops, 8)}"
            )
        names = below
    training = training_state(infos.values(), graph)
    return Seen(checkpoint.path, infos, names, shown, training, scope, checkpoint.format, nameless)


def _object_graph(checkpoint: Checkpoint, findings: Findings) -> tuple[ObjectGraph | None, str]:
    """The graph, or None and why, where only the index is at hand: a plan needs no values."""
    try:
        return checkpoint.object_graph, ""
    except CheckpointNotFoundError as error:
        findings.notes.append(f"no readable names, as the object graph cannot be read: {error}")
        return None, str(error)


def _within(
    scope: str, key: str, names: tuple[str, ...], graph: ObjectGraph | None
) -> tuple[str, ...]:
    """The names that lie under a scope, without it, and the own name of a variable of such a path.

    An own name is relative to no root, and may alone tell what model it is of.
    """
    below = _below(scope, names)
    own = graph[key].full_name if below and graph is not None and key in graph else ""
    return tuple(dict.fromkeys((*below, own))) if own and own in names else below


def _below(scope: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that lie under a scope, without it."""
    if not scope:
        return names
    return tuple(name[len(scope) + 1 :] for name in names if name.startswith(scope + "/"))


def choose(seen: Seen, moving_averages: str, rules: RuleSet | None, findings: Findings) -> Chosen:
    """The variables to map. What looks like training state is left out.

    Rules that were given go before that guess, and with `moving_averages` "use" each average
    stands for its variable. Raises PlanError where there are none to use.
    """
    explicit = _explicit(seen, rules) if rules is not None else {}
    training = {key: state for key, state in seen.training.items() if key not in explicit}
    others = {key: info for key, info in seen.infos.items() if key not in training}
    variables = {key: info for key, info in others.items() if seen.names[key]}
    dropped = {key: str(state) for key, state in training.items()}
    dropped |= {key: f"outside --scope {seen.scope}" for key in others if key not in variables}
    averages = averages_of(seen, training)
    if moving_averages == "use":
        used = _used(averages, seen)
        _tell_used(used, variables, seen, findings)
        for base, key in used.items():
            variables[base] = seen.infos[key]
            del dropped[key]
            if base in seen.infos:
                dropped[base] = f"replaced by its moving average {seen.shown[key]}"
    elif any(base in seen.infos for base, _ in averages):
        findings.notes.append(
            f"moving averages: {len(averages)} left out; --moving-averages use converts them in "
            "place of the raw values"
        )
    return Chosen(variables, dropped, explicit)


def averages_of(seen: Seen, training: Mapping[str, Training]) -> list[tuple[str | None, str]]:
    """The variable and the key of each moving average below the scope.

    The variable may be missing; it is None where nothing tells which it is.
    """
    return [
        (state.base, key)
        for key, state in training.items()
        if state.kind == "moving average" and seen.names_of(state.base or key)
    ]


def _used(averages: Sequence[tuple[str | None, str]], seen: Seen) -> dict[str, str]:
    """The average that stands for each variable. Raises PlanError where that is not certain."""
    if not averages:
        raise PlanError(
            f"{seen.path}: --moving-averages use: there are no moving averages in it; leave the "
            "option out to convert the variables as they are"
        )
    used: dict[str, str] = {}
    for base, key in averages:
        if base is None:
            raise PlanError(
                f"{seen.path}: --moving-averages use: nothing tells which variable "
                f"{seen.shown[key]} is the moving average of"
            )
        other = used.setdefault(base, key)
        if other != key:
            raise PlanError(
                f"{seen.path}: --moving-averages use: variable {seen.name(base)} has "
                f"two, {seen.shown[other]} and {seen.shown[key]}"
            )
    return used


def _tell_used(
    used: Mapping[str, str], variables: Collection[str], seen: Seen, findings: Findings
) -> None:
    without = [seen.shown[key] for key in variables if key not in used]
    said = f"moving averages: used for {count(used, 'variable')}"
    if without:
        said += f"; without one and left as they are: {some(without)}"
    findings.notes.append(said)


def _explicit(seen: Seen, rules: RuleSet) -> dict[str, set[re.Pattern[str]]]:
    """What looks like training state, but rules name it: they do not match its variable as well.

    Of what has no variable, such as counters, they match no weight. Each with the rules' sources.
    """
    patterns = [pattern for rule in rules.rules for pattern in rule.patterns]
    weights = [key for key in seen.infos if key not in seen.training]

    def spells(pattern: re.Pattern[str], key: str) -> bool:
        return any(map(pattern.fullmatch, seen.names_of(key)))

    found: dict[str, set[re.Pattern[str]]] = {}
    for key, state in seen.training.items():
        others = [state.base] if state.base else weights
        for pattern in patterns:
            if spells(pattern, key) and not any(spells(pattern, other) for other in others):
                found.setdefault(key, set()).add(pattern)
    return found


def without(variables: Mapping[str, TensorInfo], keys: Collection[str]) -> dict[str, TensorInfo]:
    """The variables but for those of these keys."""
    return {key: info for key, info in variables.items() if key not in keys}


def _own(names: Sequence[str], shown: str) -> str:
    """What a variable is called, of its names: its key, unless that is its path.

    Such are the keys of object-based checkpoints, and of HDF5 files where several have one name.
    """
    key, *others = names
    if "/.ATTRIBUTES/" in key:
        return shown if shown in others else others[0] if others else key
    return next((other for other in others if key.endswith(f"/{other}")), key)


def spellings(variables: Mapping[str, TensorInfo], seen: Seen) -> Variables:
    """The variables under all their names."""
    names = {key: seen.names_of(key) for key in variables}
    spelled = Variables((name, info) for key, info in variables.items() for name in names[key])
    spelled.own = [(_own(names[key], seen.name(key)), info) for key, info in variables.items()]
    return spelled


def matching(regex: re.Pattern[str], seen: Seen, chosen: Chosen) -> list[str]:
    """The keys of the variables whose whole key or readable name matches.

    Not by any alias: those of one variable may look like another's path. A moving average that is
    used goes by its own name, too.
    """

    def spelled(key: str) -> Sequence[str]:
        used = chosen.variables[key].name if key in chosen.variables else key
        return key, used, seen.name(key), *seen.names_of(key)[:2]

    keys = dict.fromkeys((*seen.infos, *chosen.variables))
    return [key for key in keys if any(map(regex.fullmatch, spelled(key)))]
