"""Planning: from names, shapes and dtypes alone, before any value is read.

A plan is total on both sides: each variable is used or left out for a stated reason, each tensor
that the model needs is filled once.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypedDict

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError, PlanError, RuleError, UnknownModelTypeError
from tfreader.object_graph import ObjectGraph
from tfreader.training import MOVING_AVERAGE, Training, training_state

from .config import SourceConfig, read_config
from .detect import choose_family, fitting, not_built_in
from .family import Config, Family
from .ops import Join, Shape, Slice, Split, Squeeze, Step, Unstack
from .plan import CASTABLE, FLOATS, Entry, Plan
from .rule import Architecture, Rule, RuleSet, literal_tail, load_rules

MAX_LABELS = 1_000_000


class PlanOptions(TypedDict, total=False):
    """The options of `make_plan` that `convert` and `load_state_dict` pass on to it."""

    architecture: str | None
    dtype: str
    overrides: Mapping[str, Any] | None
    ignore: Sequence[str]
    moving_averages: str
    finetuning_task_name: str | None


def make_plan(
    checkpoint: Checkpoint,
    model_type: str = "auto",
    *,
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
    rules: str | PathLike[str] | RuleSet | None = None,
    architecture: str | None = None,
    dtype: str = "keep",
    overrides: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    moving_averages: str = "drop",
    finetuning_task_name: str | None = None,
) -> Plan:
    """Plan the conversion of a checkpoint.

    `config` is the original config file, or its contents; by default the one in or beside the
    checkpoint.
    `rules`, a rule set or the path of a rule file, replaces the family's. `architecture` overrides
    the model class that the heads found decide. `dtype` ("float16", "bfloat16", "float32" or
    "keep") is that of all floating-point tensors. `overrides` sets keys of the written config.
    Variables that fully match a regex of `ignore` are left out. `moving_averages` is "drop", or
    "use" to convert each variable's moving average in its place.

    Raises PlanError, whose `problems` lists all that does not fit; UnknownModelTypeError;
    ConfigError; RuleError.
    """
    if dtype != "keep" and dtype not in FLOATS:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(FLOATS)}, keep")
    if moving_averages not in ("drop", "use"):
        raise ConfigError(f"unknown choice of moving averages {moving_averages!r}: drop or use")
    if rules is not None and not isinstance(rules, RuleSet):
        rules = load_rules(rules)
    planner = _planner(checkpoint, model_type, config, rules, overrides or {}, finetuning_task_name)
    return planner.plan(rules, architecture, dtype, ignore, moving_averages)


def _planner(
    checkpoint: Checkpoint,
    model_type: str,
    config: str | PathLike[str] | Mapping[str, Any] | None,
    rules: RuleSet | None,
    overrides: Mapping[str, Any],
    finetuning_task_name: str | None,
) -> _Planner:
    infos = {info.name: info for info in checkpoint.infos}
    graph = checkpoint.object_graph
    training = training_state(infos.values(), graph)
    names = {name: _names(name, graph) for name in infos}
    family, evidence = choose_family(checkpoint.path, names, model_type, rules)
    own = checkpoint.config if config is None else None
    source = read_config(checkpoint.path, family, config, own, overrides, finetuning_task_name)
    planner = _Planner(checkpoint, infos, names, training, family, source, model_type)
    planner.notes = evidence + planner.notes
    return planner


def rules_for(checkpoint: Checkpoint, model_type: str = "auto") -> RuleSet:
    """The rules of a family as a checkpoint needs them. Raises what `make_plan` raises for them."""
    planner = _planner(checkpoint, model_type, None, None, {}, None)
    rules = planner.rules(planner.select("drop"), None)
    if planner.problems:
        raise planner.error(None)
    return rules


def _names(name: str, graph: ObjectGraph | None) -> tuple[str, ...]:
    """The names by which rules may know a variable: as stored, as shown, as the graph has it."""
    if graph is None or name not in graph:
        return (name,)
    return tuple(dict.fromkeys((name, graph.name(name), *graph[name].names)))


@dataclass(frozen=True)
class _Match:
    """A rule that matches a variable, with the values of its groups and the source it matched."""

    rule: Rule
    source: int
    groups: Mapping[str, str]
    info: TensorInfo


class _Planner:
    """The steps of one planning; `problems` collects what does not fit, causes before effects."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        infos: Mapping[str, TensorInfo],
        names: Mapping[str, tuple[str, ...]],
        training: Mapping[str, Training],
        family: Family | None,
        source: SourceConfig,
        model_type: str,
    ) -> None:
        self.checkpoint = checkpoint
        self.infos = infos
        self.names = names
        self.training = training
        self.family = family
        self.source = source
        self.config: Config = dict(source.values)
        if family is not None and model_type in family.variants:
            self.config.setdefault("model_type", model_type)
        self.spelled: dict[str, TensorInfo] = {}  # the variables, under all their names
        self.inferred: dict[str, tuple[int, str]] = {}
        self.problems: list[str] = []
        self.notes: list[str] = [*checkpoint.notes, *source.notes]
        self.dropped: dict[str, str] = {}

    def plan(
        self,
        given: RuleSet | None,
        wanted: str | None,
        dtype: str,
        ignore: Sequence[str],
        moving_averages: str,
    ) -> Plan:
        variables = self.select(moving_averages)
        rules = self.rules(variables, given)
        matches = self._match(variables, rules)
        architecture = self._architecture(rules, matches, wanted)
        parts = architecture.all_parts if architecture else rules.parts
        active = self._account(variables, matches, parts, architecture, rules, ignore)
        counts = self._counts(rules, active)
        self._check_shapes(active)
        strip = architecture.strip if architecture else ""
        entries = self._entries(active, strip, dtype)
        entries += self._fills(rules, parts, strip, entries)
        optional = architecture.optional_parts if architecture else set()
        self._check_required(rules, parts, optional, active, counts, entries, strip, given)
        if self.problems:
            raise self.error(architecture)
        targets = {entry.target for entry in entries}
        tied = [names for tie in rules.ties if tie.part in parts for names in tie.names(counts)]
        stripped = [(a.removeprefix(strip), t.removeprefix(strip)) for a, t in tied]
        ties = {alias: t for alias, t in stripped if t in targets and alias not in targets}
        config = self._finish_config(architecture, entries) if self.family else None
        if self.family and config is not None:
            self.notes += self.family.remarks(config)
        return Plan(
            path=self.checkpoint.path,
            family=self.family,
            rules=rules,
            rules_given=given is not None,
            architecture=architecture.name if architecture else None,
            entries=tuple(entries),
            dropped=self.dropped,
            ties=ties,
            config=config,
            original_config=self.source.original,
            config_path=self.source.path,
            notes=tuple(self.notes),
        )

    def select(self, moving_averages: str) -> dict[str, TensorInfo]:
        """The variables to map, under the names that rules see; training state is left out."""
        chosen = {name: info for name, info in self.infos.items() if name not in self.training}
        averages = {
            state.base: name
            for name, state in self.training.items()
            if state.kind == "moving average" and name.endswith("/" + MOVING_AVERAGE)
        }
        self.dropped = {name: str(state) for name, state in self.training.items()}
        if averages and moving_averages == "use":
            for base, name in averages.items():
                assert base is not None
                chosen[base] = self.infos[name]
                del self.dropped[name]
                if base in self.infos:
                    self.dropped[base] = f"replaced by its moving average {name}"
            self.notes.append(f"moving averages: used for {len(averages)} variables")
        elif averages:
            self.notes.append(
                f"moving averages: {len(averages)} left out; --moving-averages use converts them "
                "in place of the raw values"
            )
        return chosen

    def rules(self, variables: Mapping[str, TensorInfo], given: RuleSet | None) -> RuleSet:
        """The rules given, else the family's for what the config and the variables tell."""
        if self.family is None:
            assert given is not None
            return given
        self.spelled = {
            own: info for name, info in variables.items() for own in self._spellings(name)
        }
        for key, value in self.family.describe(dict(self.config), self.spelled).items():
            if self.config.setdefault(key, value) != value:
                self.problems.append(
                    f"{key} = {self.config[key]!r} in {self.source.origin(key)}, but the "
                    f"checkpoint's variables tell {value!r}: this config belongs to another model"
                )
        return given or self.family.adapt(self.family.rules, dict(self.config), self.spelled)

    def _match(
        self, variables: Mapping[str, TensorInfo], rules: RuleSet
    ) -> dict[str, list[_Match]]:
        # Most rules end in plain text, by which the few that can match a name are found.
        sources: dict[str, list[tuple[int, Rule, int, re.Pattern[str]]]] = defaultdict(list)
        for position, rule in enumerate(rules.rules):
            for number, pattern in enumerate(rule.patterns):
                sources[literal_tail(pattern.pattern)].append((position, rule, number, pattern))
        lengths = sorted({len(tail) for tail in sources})

        def matches(name: str, info: TensorInfo) -> list[_Match]:
            ends = [name[len(name) - length :] for length in lengths if length <= len(name)]
            found = [
                (position, _Match(rule, number, _groups(match, rules.counts), info))
                for end in ends
                for position, rule, number, pattern in sources.get(end, ())
                if (match := pattern.fullmatch(name))
            ]
            if len(found) > 1:
                found.sort(key=lambda item: item[0])
            return [match for _, match in found]

        # The first of its names that any rule knows decides.
        return {
            name: next(filter(None, (matches(own, info) for own in self._spellings(name))), [])
            for name, info in variables.items()
        }

    def _spellings(self, name: str) -> tuple[str, ...]:
        """All names of a variable; a moving average in place of a missing one has just that."""
        return self.names.get(name, (name,))

    def _architecture(
        self, rules: RuleSet, matches: Mapping[str, list[_Match]], wanted: str | None
    ) -> Architecture | None:
        """The model class: the one asked for, or the one whose heads are those found."""
        if wanted is not None:
            found = rules.architecture(wanted)
            if found is None:
                known = ", ".join(a.name for a in rules.architectures) or "none"
                raise UnknownModelTypeError(f"unknown architecture {wanted!r}; known: {known}")
            return found
        if not rules.architectures:
            return None
        present = {match.rule.part for found in matches.values() for match in found}
        all_heads = {head for a in rules.architectures for head in a.heads}
        heads = present & all_heads
        # Fine-tuning leaves the heads of pre-training behind; the first class is the one for those.
        left_over = set(rules.architectures[0].heads)
        for found_heads in (heads, heads - left_over):
            candidates = [a for a in rules.architectures if set(a.heads) == found_heads]
            if candidates:
                break
        else:
            raise PlanError(
                f"{self.checkpoint.path}: no model class has just the heads that its variables may "
                f"be ({', '.join(sorted(heads))})\nChoose one with --architecture: "
                + ", ".join(a.name for a in rules.architectures)
            )
        for candidate in candidates:
            if (candidate.all_parts & rules.parts) - candidate.optional_parts <= present:
                break
        else:
            candidate = candidates[0]
        said = f"heads found: {', '.join(sorted(heads))}" if heads else "no head found"
        if found_heads != heads:
            said += f"; {', '.join(sorted(heads - found_heads))} left out"
        self.notes.append(f"{candidate.name} ({said}; --architecture chooses another)")
        return candidate

    def _account(
        self,
        variables: Mapping[str, TensorInfo],
        matches: Mapping[str, list[_Match]],
        parts: Collection[str],
        architecture: Architecture | None,
        rules: RuleSet,
        ignore: Sequence[str],
    ) -> list[_Match]:
        """The matches that count; a variable without one is dropped with a reason or unknown."""
        ignored = [_regex(regex) for regex in ignore]
        drops = [(_regex(drop.source), drop.reason) for drop in rules.drops]
        active: list[_Match] = []
        unknown: list[str] = []
        for name, info in variables.items():
            names = self._spellings(name)
            # Not by any alias: those of one variable may look like another's path.
            if any(regex.fullmatch(own) for regex in ignored for own in names[:2]):
                self.dropped[info.name] = "ignored as asked (--ignore)"
                continue
            reason = next((why for regex, why in drops if any(map(regex.fullmatch, names))), None)
            mine = [match for match in matches[name] if match.rule.part in parts]
            if reason is not None:
                self.dropped[info.name] = reason
            elif mine:
                active += mine
            elif matches[name]:
                part = matches[name][0].rule.part
                kind = architecture.name if architecture else "this model"
                self.dropped[info.name] = f"{part}: not in {kind}"
            else:
                unknown.append(f"{name} {list(info.shape)}")
        if unknown:
            self.problems.append(
                f"{_count(unknown, 'variable')} that no rule knows: {_some(unknown)}; "
                "leave out with --ignore REGEX, or map with --rules FILE"
            )
        return active

    def _counts(self, rules: RuleSet, active: Iterable[_Match]) -> dict[str, int]:
        """How many of each counted group there are, without gaps and as the config says."""
        seen: dict[str, set[int]] = defaultdict(set)
        for match in active:
            for group in rules.counts.keys() & match.groups.keys():
                seen[group].add(int(match.groups[group]))
        counts = {}
        for group, key in rules.counts.items():
            found = seen[group]
            number = len(found)
            self.config.setdefault(key, number)
            configured = self._dimension(key)
            contiguous = found == set(range(number))
            # Where nothing was found, the required rules say what is missing.
            if found and contiguous and number != configured:
                self.problems.insert(
                    0,
                    f"{key} = {configured} in {self.source.origin(key)}, but the checkpoint has "
                    f"{number} ({group} 0 to {number - 1}): correct the config, or the "
                    "checkpoint is incomplete",
                )
            elif not contiguous:
                # An index may be huge: look no further than where a gap must have shown.
                missing = [i for i in range(min(max(found), number + 1)) if i not in found]
                self.problems.append(f"{group} {_some(missing)} of {max(found) + 1} is missing")
            counts[group] = min(configured, max(number, 1))
        return counts

    def _check_shapes(self, active: Iterable[_Match]) -> None:
        """Bind the rules' dimensions to the config, or infer what the config leaves open."""
        wrong: dict[tuple[str, str], list[str]] = defaultdict(list)  # message around the names
        checked = []
        for match in active:
            expected, info = match.rule.shape, match.info
            if expected is None or match.source != 0:
                continue
            if len(expected) != len(info.shape):
                self.problems.append(
                    f"variable {info.name} has shape {list(info.shape)}, expected "
                    f"[{', '.join(map(str, expected))}]"
                )
                continue
            checked += [(d, size, info.name) for d, size in zip(expected, info.shape, strict=True)]
        for dimension, size, name in checked:  # before products of them are needed
            if _is_key(dimension) and self.config.get(str(dimension)) is None:
                self.config[str(dimension)] = size
                self.inferred[str(dimension)] = (size, name)
        for dimension, size, name in checked:
            self._bind(dimension, size, name, wrong)
        for (before, after), names in wrong.items():
            others = f" and {len(names) - 1} more variables" if len(names) > 1 else ""
            self.problems.insert(0, f"{before}{names[0]}{others}{after}")

    def _bind(
        self,
        dimension: int | str,
        size: int,
        name: str,
        wrong: dict[tuple[str, str], list[str]],
    ) -> None:
        if dimension == "*":
            return
        if (value := self._dimension(dimension)) == size:
            return
        if isinstance(dimension, int):
            before, after = f"expected a dimension of {dimension}, found {size} in ", ""
        elif dimension in self.inferred:
            other = self.inferred[dimension][1]
            before, after = f"{dimension} is {value} in {other}, but {size} in ", ""
        else:
            origin = self.source.origin(dimension)
            before = f"{dimension} = {value} in {origin}, but the checkpoint has {size} ("
            after = ")"
        wrong[before, after].append(name)

    def _dimension(self, dimension: int | str) -> int:
        """The value of a dimension: a number or a config key, or a product or quotient of them."""
        first, *rest = re.split("([*/])", str(dimension))
        value = self._factor(first)
        for operator, factor in zip(rest[::2], rest[1::2], strict=True):
            other = self._factor(factor)
            if operator == "/" and (not other or value % other):
                raise ConfigError(f"{dimension} is {value} / {other}, which is no integer")
            value = value * other if operator == "*" else value // other
        return value

    def _factor(self, factor: str) -> int:
        if factor.lstrip("-").isdigit():
            return int(factor)
        if not isinstance(self.config.get(factor), int):
            raise ConfigError(
                f"{self.source.origin(factor)}: the rules need an integer {factor!r}; "
                f"give it with --set {factor}=N"
            )
        return int(self.config[factor])

    def _entries(self, active: Iterable[_Match], strip: str, dtype: str) -> list[Entry]:
        grouped: dict[tuple[int, tuple[tuple[str, str], ...]], list[_Match]] = defaultdict(list)
        for match in active:
            grouped[id(match.rule), tuple(match.groups.items())].append(match)
        entries: list[Entry] = []
        filled: dict[str, str] = {}
        for found in grouped.values():
            found.sort(key=lambda match: match.source)
            if [match.source for match in found] != list(range(len(found[0].rule.sources))):
                names = ", ".join(match.info.name for match in found)
                targets = ", ".join(t.format(**found[0].groups) for t in found[0].rule.targets)
                wanted = len(found[0].rule.sources)
                self.problems.append(
                    f"{targets} is made of {_count(range(wanted), 'variable')}, found {names}; "
                    "leave out what is too much with --ignore REGEX"
                )
                continue
            try:
                made = self._apply_rule(found, strip, dtype)
            except ValueError as error:
                self.problems.append(f"variable {found[0].info.name}: {error}")
                continue
            for entry in made:
                if entry.target in filled:
                    self.problems.append(
                        f"{entry.target} is filled twice: by {filled[entry.target]} "
                        f"and by {entry.sources[0]}"
                    )
                filled[entry.target] = entry.sources[0]
            entries += made
        return entries

    def _fills(
        self, rules: RuleSet, parts: Collection[str], strip: str, entries: Sequence[Entry]
    ) -> list[Entry]:
        """Entries for the tensors that no variable gives."""
        targets = {entry.target for entry in entries}
        floats = Counter(entry.dtype for entry in entries if entry.dtype in CASTABLE)
        usual = max(floats, key=floats.__getitem__, default=FLOATS["float32"])
        fills = []
        for fill in rules.fills:
            target = fill.target.removeprefix(strip)
            if fill.part in parts and target not in targets:
                try:
                    shape = tuple(map(self._dimension, fill.shape))
                except ConfigError as error:
                    self.problems.append(str(error))
                    continue
                if fill.value == "identity" and shape[0] != shape[1]:
                    self.problems.append(
                        f"{target} {list(shape)}: no variable gives it, and an identity would have "
                        "to be square"
                    )
                    continue
                # Positions times a rounded frequency would be far off.
                dtype = FLOATS["float32"] if fill.value == "frequencies" else usual
                fills.append(Entry(target, (), (), shape, dtype, dtype, fill))
                self.notes.append(f"{target}: filled with {fill.value}: {fill.reason}")
        return fills

    def _apply_rule(self, found: Sequence[_Match], strip: str, dtype: str) -> list[Entry]:
        """The entries that one rule makes of its sources. ValueError where shapes do not fit."""
        rule = found[0].rule
        infos = [match.info for match in found]
        numpy = infos[0].dtype.numpy
        if numpy is None or any(info.dtype != infos[0].dtype for info in infos):
            kinds = ", ".join(info.dtype for info in infos)
            raise ValueError(f"values of type {kinds} cannot be converted")
        if self.family is not None and numpy not in CASTABLE:
            raise ValueError(f"values of type {infos[0].dtype}, where weights are of a float type")
        resolved = [op.resolve(self._dimension) for op in rule.ops]
        ops = [op for op in resolved if isinstance(op, Step | Join)]  # the rest is in _outputs
        shapes = [info.shape for info in infos]
        for op in ops:
            if isinstance(op, Join):
                shapes = [op.join_shapes(shapes)]
            else:
                shapes = [op.shape(shape) for shape in shapes]
        (shape,) = shapes
        output = FLOATS[dtype] if dtype != "keep" and numpy in CASTABLE else numpy

        entries = []
        for template, groups, last in _outputs(rule, found[0].groups, shape):
            final = shape
            for op in last:
                final = op.shape(final)
            entries.append(
                Entry(
                    target=template.format(**groups).removeprefix(strip),
                    sources=tuple(info.name for info in infos),
                    ops=(*ops, *last),
                    shape=final,
                    dtype=output,
                    source_dtype=numpy,
                )
            )
        return entries

    def _check_required(
        self,
        rules: RuleSet,
        parts: Collection[str],
        optional: Collection[str],
        active: Iterable[_Match],
        counts: Mapping[str, int],
        entries: Iterable[Entry],
        strip: str,
        given: RuleSet | None,
    ) -> None:
        """Every required rule of a wanted part must have filled its targets, for every layer."""
        filled = {entry.target for entry in entries}
        fired = {id(match.rule) for match in active}
        present = {match.rule.part for match in active}
        missing: dict[str, str] = {}
        for rule in rules.rules:
            if not rule.required or rule.part not in parts:
                continue
            if rule.part in optional and rule.part not in present:
                continue
            domains = rule.domains(counts)
            if domains is None or rule.unstack is not None:
                if id(rule) not in fired:
                    missing.setdefault(rule.targets[0], rule.sources[0])
                continue
            for groups in domains:
                for target in rule.targets:
                    name = target.format(**groups).removeprefix(strip)
                    if name not in filled:
                        missing.setdefault(name, rule.example(groups))
        if self.family is not None and rules is not given:
            without = _required_parts(self.family.rules) - _required_parts(rules)
            for part in sorted(without & set(parts) - set(optional)):
                missing[f"all of {part}"] = "no variable of this checkpoint's layout"
        for part in sorted(set(optional) - present):
            self.notes.append(
                f"the checkpoint has no {part}: the model is written without it, and a class of "
                "transformers that has one starts it at random"
            )
        if missing:
            wanted = [f"{target} (from {source})" for target, source in missing.items()]
            self.problems.append(
                f"{_count(wanted, 'tensor')} that the model needs, but no variable fills: "
                f"{_some(wanted)}"
            )

    def _finish_config(self, architecture: Architecture | None, entries: list[Entry]) -> Config:
        assert self.family is not None
        config: Config = {"model_type": self.family.model_type}
        if architecture:
            config["architectures"] = [architecture.name]
        config |= {**self.family.defaults, **self.config}
        for key, value in self.family.assume(config, self.spelled).items():
            if key not in config:
                config[key] = value
                self.notes.append(
                    f"{key} = {json.dumps(value)}: the original's usual value, since no config "
                    f"file and no shape tells it; --set {key}=VALUE gives another"
                )
        labels = config.pop("num_labels", None)
        if labels is not None and (type(labels) is not int or not 0 < labels <= MAX_LABELS):
            raise ConfigError(f"{self.source.origin('num_labels')}: num_labels = {labels!r}")
        named = config.get("id2label")
        if named is not None and not isinstance(named, Mapping):
            raise ConfigError(f"{self.source.origin('id2label')}: id2label is no object of names")
        if labels is not None and named and len(named) != labels:
            raise ConfigError(
                f"{self.source.origin('id2label')}: id2label names {len(named)} labels, the "
                f"checkpoint's head has {labels}"
            )
        if labels is not None and not named:
            names = [f"LABEL_{i}" for i in range(labels)]
            config["id2label"] = {str(i): name for i, name in enumerate(names)}
            config["label2id"] = {name: i for i, name in enumerate(names)}
        floats = {str(entry.dtype) for entry in entries if entry.dtype in CASTABLE}
        if floats:  # a model is loaded in one type, which should hold them all
            widest = floats.pop() if len(floats) == 1 else "float32"
            config.setdefault("dtype", widest)
        self.family.check(config)
        return config

    def error(self, architecture: Architecture | None) -> PlanError:
        kind = architecture.name if architecture else "the rules"
        shown = self.problems[:2]
        more = len(self.problems) - len(shown)
        tail = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        if self.family is not None:
            likely = [family.model_type for family in fitting(self.names.values())]
            likely += not_built_in(self.names.values())
            if self.family.model_type not in likely:
                tail += f"\nThe variables are {' or '.join(likely) or 'of no family known here'}: "
                tail += f"is --model_type {self.family.model_type} right?"
        message = f"{self.checkpoint.path} does not fit {kind}: " + "\n".join(shown) + tail
        return PlanError(message, tuple(self.problems))


def _outputs(
    rule: Rule, groups: Mapping[str, str], shape: Shape
) -> list[tuple[str, Mapping[str, str], tuple[Step, ...]]]:
    """Per tensor that a rule makes: its target template, group values and last operations."""
    last = rule.ops[-1] if rule.ops else None
    if isinstance(last, Unstack | Split) and not 0 <= last.axis < len(shape):
        raise ValueError(f"{last} does not fit the shape {list(shape)}")
    if isinstance(last, Unstack):
        return [
            (
                rule.targets[0],
                {**groups, last.index: str(i)},
                (Slice(last.axis, i, i + 1), Squeeze(last.axis)),
            )
            for i in range(shape[last.axis])
        ]
    if isinstance(last, Split):
        size, rest = divmod(shape[last.axis], len(rule.targets))
        if rest:
            raise ValueError(f"{list(shape)} cannot be split into {len(rule.targets)} equal parts")
        return [
            (target, groups, (Slice(last.axis, i * size, (i + 1) * size),))
            for i, target in enumerate(rule.targets)
        ]
    return [(rule.targets[0], groups, ())]


def _groups(match: re.Match[str], counts: Mapping[str, str]) -> dict[str, str]:
    """The values of a match's groups; counted ones as plain numbers, whatever their padding."""
    groups = match.groupdict("")
    for name in counts.keys() & groups.keys():
        try:
            groups[name] = str(int(groups[name]))
        except ValueError:
            raise RuleError(f"group {name!r} is counted, but it matched {groups[name]!r}") from None
    return groups


def _required_parts(rules: RuleSet) -> set[str]:
    return {rule.part for rule in rules.rules if rule.required}


def _is_key(dimension: int | str) -> bool:
    """Whether a dimension is one config key, and no number, formula or wildcard."""
    return isinstance(dimension, str) and not set("*/") & set(dimension)


def _regex(source: str) -> re.Pattern[str]:
    try:
        return re.compile(source)
    except re.error as error:
        raise RuleError(f"bad regular expression {source!r}: {error}") from None


def _some(items: Sequence[Any], limit: int = 3) -> str:
    shown = ", ".join(map(str, items[:limit]))
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) != 1 else ''}"
