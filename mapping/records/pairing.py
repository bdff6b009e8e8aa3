"""Which tensor of a model is which of a plan: by its name, under another prefix, or by a tie."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from ..plan import Plan
from ..rules.ops import Shape
from .spellings import base_prefixes, spelled_as_planned, ties

MOST_LEVELS = 2  # of names that a prefix has: `module.bert.`


@dataclass
class Pairing:
    """The model's name of each tensor of the plan, and what is known of the others.

    `prefixes` are those that differ: of the plan, of the model, and whether loading knows both;
    `moved` has those of each tensor. `respelled` are the model's names that loading changes. `tied`
    are names of the plan whose tensor the model has under another name alone, `copies` the
    model's names of tensors that it has under another name too, with the plan's name. `extra` are
    those that no tensor of the plan has.
    """

    names: dict[str, str] = field(default_factory=dict)
    prefixes: list[tuple[str, str, bool]] = field(default_factory=list)
    moved: dict[str, tuple[str, str, bool]] = field(default_factory=dict)
    respelled: set[str] = field(default_factory=set)
    tied: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)

    def distance(self, plan: Plan, found: Mapping[str, Shape]) -> int:
        """How many tensors are in but one of both, or have different sizes."""
        shapes = {entry.target: entry.shape for entry in plan.entries}
        fitting = sum(
            sorted(found[name]) == sorted(shapes[target]) for target, name in self.names.items()
        )
        return len(shapes) - fitting + len(self.extra)


def pair(plan: Plan, found: Mapping[str, Shape]) -> Pairing:
    """Find the model's name of each tensor of the plan.

    Prefixes that differ are told by most names having them. Those of the family's base model, with
    or without which from_pretrained loads a file, are known; so is any where no class is.
    """
    targets = [entry.target for entry in plan.entries]
    bases = base_prefixes(plan)
    spelled = spelled_as_planned(found, plan)
    tied = ties(spelled, plan)
    made = Pairing(names={name: name for name in targets if name in spelled})
    left = {*targets, *tied} - spelled.keys()
    while left and (best := _best(left, spelled.keys() - {*made.names.values()})):
        own, other = best
        is_known = (
            not plan.rules.architectures
            or (own in bases and not other)
            or (other in bases and not own)
        )
        made.prefixes.append((own, other, is_known))
        for name in sorted(left):
            there = other + name.removeprefix(own)
            if name.startswith(own) and there in spelled:
                made.names[name] = there
                made.moved[name] = made.prefixes[-1]
                left.discard(name)
    aliases = {made.names.pop(name, name): end for name, end in tied.items()}
    for alias, end in aliases.items():
        if alias in spelled and end in made.names:
            made.copies[alias] = end
        elif alias in spelled:
            made.names[end] = alias
            made.tied[end] = alias
    made.names = {target: spelled[name] for target, name in made.names.items()}
    made.tied = {target: spelled[name] for target, name in made.tied.items()}
    made.copies = {spelled[name]: target for name, target in made.copies.items()}
    made.respelled = {own for name, own in spelled.items() if name != own}
    taken = {*made.names.values(), *made.copies}
    made.extra = [name for name in found if name not in taken]
    return made


def _best(names: Collection[str], others: Collection[str]) -> tuple[str, str] | None:
    """The two prefixes of which one turns into the other for at least half of the names."""
    by_rest = defaultdict(list)
    for other in others:
        for prefix, rest in _cuts(other):
            by_rest[rest].append(prefix)
    counts = Counter(
        (own, other)
        for name in names
        for own, rest in _cuts(name)
        for other in by_rest[rest]
        if own != other and (own.startswith(other) or other.startswith(own))
    )
    for (own, other), count in counts.most_common():
        if 2 * count >= sum(name.startswith(own) for name in names):
            return own, other
    return None


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """A name, cut behind its first levels."""
    levels = name.split(".")
    for i in range(min(MOST_LEVELS, len(levels) - 1) + 1):
        yield "".join(f"{level}." for level in levels[:i]), ".".join(levels[i:])
