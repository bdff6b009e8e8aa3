"""What a plan follows: the family and its layout, the config, and the rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError, PlanError

from ..family import Beside, Config, Family, Layout, Made, Variables
from ..findings import Findings
from ..rules.extension import extended, own_of
from ..rules.rule import Architecture, Drop, RuleSet
from .buffers import buffers
from .config import Asked, SourceConfig, read_config
from .detect import detect
from .values import are_equal
from .variables import Chosen, Seen, choose, look, spellings

NOTHING = RuleSet(())


@dataclass(frozen=True)
class Followed:
    """The `rules` to follow, and what they are for.

    `family` is None for rules of the user's own, `layout` where they take the place of a layout's.
    `own` are those of a rule file that extends the family, `usual` those of the family's usual
    layout. `config` has what `source`, the vocabulary and the layout tell; `spelled` are the
    variables under all their names.
    """

    family: Family | None
    layout: Layout | None
    rules: RuleSet
    own: RuleSet
    usual: RuleSet
    source: SourceConfig
    config: Config
    spelled: Variables

    @property
    def required_parts(self) -> set[str]:
        """The parts that the family's usual rules require; none of rules of the user's own."""
        if self.layout is None:
            return set()
        return {rule.part for rule in self.usual.rules if rule.required}


def follow(
    checkpoint: Checkpoint,
    seen: Seen,
    chosen: Chosen,
    known: Mapping[str, TensorInfo],
    asked: Asked,
    findings: Findings,
) -> Followed:
    """What to follow for the variables `known`.

    Raises UnknownModelTypeError, PlanError, ConfigError, RuleError.
    """
    given = asked.rules
    family, layout, told = detect(seen, chosen, asked.model_type, given)
    source = read_config(checkpoint, family, asked)
    findings.notes = [*told, *findings.notes, *source.notes]
    findings.notes += given.remarks if given is not None else ()
    findings.notes += _other_type(family, source, asked)
    spelled = spellings(known, seen)
    usual = family.layouts[0].usual() if family is not None else NOTHING
    config = dict(source.values)
    if family is None:
        assert given is not None
        return Followed(None, None, given, NOTHING, usual, source, config, spelled)
    spelling = layout or family.layouts[0]
    config = _told(family, spelling, config, seen, source, spelled, findings)
    if given is not None and not given.extends:
        return Followed(family, None, given, NOTHING, usual, source, config, spelled)
    try:
        copies = _copies(checkpoint, spelling.copies(config, spelled))
        if copies:
            others = {key: info for key, info in known.items() if info.name not in copies}
            spelled = spellings(others, seen)
        rules = spelling.rules(dict(config), spelled)
    except (ConfigError, PlanError) as error:
        raise type(error)(f"{seen.path}: {error}") from None
    drops = [Drop(re.escape(name), reason) for name, reason in copies.items()]
    rules = replace(rules, drops=(*drops, *rules.drops, *buffers(spelled)))
    findings.notes += rules.remarks
    if given is not None:
        rules = extended(rules, given, usual)
    return Followed(family, layout, rules, own_of(rules, given), usual, source, config, spelled)


def _other_type(family: Family | None, source: SourceConfig, asked: Asked) -> list[str]:
    """What to say of a model type that was asked for, where the config has the say."""
    found = source.values.get("model_type")
    wanted = (asked.model_type, asked.model_type.replace("_", "-"))
    if family is None or not family.any_type or {"auto", family.model_type, found} & {*wanted}:
        return []
    return [
        f"--model_type {asked.model_type}: not followed: {source.origin('model_type')} tells it"
    ]


def _told(
    family: Family,
    layout: Layout,
    config: Config,
    seen: Seen,
    source: SourceConfig,
    spelled: Variables,
    findings: Findings,
) -> Config:
    """The config, and what the vocabulary, other files and the variables tell where it does not."""
    config = {**family.from_vocabulary(source.beside, spelled), **config}
    told = layout.from_settings(Beside.of(seen.path, source.path), dict(config), spelled)
    findings.notes += told.notes
    config = {**told.config, **config}
    for key, value in layout.describe(dict(config), spelled).items():
        if config.setdefault(key, value) != value:
            findings.problem(
                f"{key} = {config[key]!r} in {source.origin(key)}, but the checkpoint's variables "
                f"tell {value!r}: this config belongs to another model"
            )
    nulls = source.cleared.keys() & {*source.overridden}  # which a user had set to null
    return {key: value for key, value in config.items() if key not in nulls}


def for_class(kind: Architecture, followed: Followed, seen: Seen, findings: Findings) -> Followed:
    """The same, with what is otherwise in the config of this class, but for what the user set.

    Raises PlanError where the layout says that there is no such class in the checkpoint.
    """
    if followed.layout is None:
        return followed
    try:
        told = followed.layout.for_class(
            kind, dict(followed.config), followed.source.overridden, followed.spelled
        )
    except PlanError as error:
        raise PlanError(f"{seen.path}: {error}") from None
    findings.notes += told.notes
    return replace(followed, config={**followed.config, **told.config})


def _copies(checkpoint: Checkpoint, pairs: Iterable[tuple[Made, Made]]) -> dict[str, str]:
    """Which variables are second copies of others, by their values; with the reason."""
    return {
        copy.variable: f"its values are those of {checkpoint.shown(other.variable)}"
        for copy, other in pairs
        if are_equal(checkpoint, copy, other)
    }


def rules_for(checkpoint: Checkpoint, asked: Asked) -> RuleSet:
    """The rules of a family as a checkpoint needs them. Raises what `make_plan` raises for them."""
    findings = Findings()
    seen = look(checkpoint, "", findings)
    chosen = choose(seen, "drop", None, findings)
    followed = follow(checkpoint, seen, chosen, chosen.variables, asked, findings)
    if findings.problems:
        raise PlanError(f"{checkpoint.path}: {findings.summary()}", findings.listed())
    return followed.rules
