"""Few rules of many: names that differ by numbers, or by one word, become one template."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword

from .names import pieces

MOST_FACTOR = 4


@dataclass(frozen=True)
class Item:
    """Something to say of one layer or tensor: names on both sides, and a form that is the same."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    form: tuple[object, ...]  # hashable
    doubts: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


@dataclass
class General:
    """Templates for several items. `tables` are those that the targets name."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    items: list[Item]
    tables: dict[str, dict[str, str]] = field(default_factory=dict)


def generalise(
    items: Sequence[Item], counted: frozenset[str], names: Sequence[str]
) -> list[General]:
    """Templates for all items, in their order. None matches others of `names` (scopes too)."""
    groups: dict[object, list[Item]] = defaultdict(list)
    for item in items:
        skeletons = tuple(pieces(name, counted).skeleton for name in item.sources)
        targets = tuple(pieces(name).skeleton for name in item.targets)
        groups[skeletons, targets, item.form, bool(item.doubts)].append(item)
    found = []
    for group in groups.values():
        found += _split(group, counted, names)
    place = {id(item): i for i, item in enumerate(items)}
    return sorted(found, key=lambda each: min(place[id(item)] for item in each.items))


def single(item: Item) -> General:
    """The templates of one item alone."""
    return General(tuple(map(_escaped, item.sources)), item.targets, [item])


def _escaped(text: str) -> str:
    """Text as a regular expression, without the backslashes that nobody would write."""
    return re.sub(r"\\([-_ ])", r"\1", re.escape(text))


def _split(group: list[Item], counted: frozenset[str], names: Sequence[str]) -> list[General]:
    """One template where there is one, else the fewest that there are by one number's values."""
    if whole := _fit(group, counted, names):
        return [whole]
    if len(group) == 1:
        return [single(group[0])]
    best: list[General] = []
    for side in (0, 1):
        numbers = [_all_numbers(item, counted)[side] for item in group]
        for slot in range(len(numbers[0])):
            by_value: dict[int, list[Item]] = defaultdict(list)
            for item, own in zip(group, numbers, strict=True):
                by_value[own[slot]].append(item)
            if len(by_value) == 1:
                continue
            parts = [_fit(part, counted, names) for part in by_value.values()]
            made = [part for part in parts if part is not None]
            if len(made) == len(parts) and (not best or len(made) < len(best)):
                best = made
    return best or [g for item in group for g in _split([item], counted, names)]


def _all_numbers(item: Item, counted: frozenset[str]) -> tuple[list[int], list[int]]:
    sources = [n for name in item.sources for n in pieces(name, counted).numbers]
    return sources, [n for name in item.targets for n in pieces(name).numbers]


def _fit(group: Sequence[Item], counted: frozenset[str], names: Sequence[str]) -> General | None:
    """One template for all of them, by arithmetic on the numbers of the first source."""
    if len(group) == 1:
        return None
    first = [pieces(item.sources[0], counted) for item in group]
    columns = [*zip(*(each.numbers for each in first), strict=True)]
    written = [*zip(*(each.digits for each in first), strict=True)]
    varying = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    if any(
        len({item.sources[k] for item in group}) > 1
        and [pieces(item.sources[k], counted).digits for item in group]
        != [each.digits for each in first]
        for k in range(1, len(group[0].sources))
    ):
        return None
    labels = _labels(first[0].texts, varying)
    used: set[int] = set()
    targets = []
    for k in range(len(group[0].targets)):
        parts = [pieces(item.targets[k]) for item in group]
        text = parts[0].texts[0]
        for slot, after in enumerate(parts[0].texts[1:]):
            digits = [each.digits[slot] for each in parts]
            said = _arithmetic(digits, written, varying, labels, used)
            if said is None:
                return None
            text += said + after
        targets.append(text)
    sources = []
    for k in range(len(group[0].sources)):
        own = pieces(group[0].sources[k], counted)
        sources.append(_regex(own.texts, own.digits, own.optional, varying, labels, used, columns))
    wanted = {item.sources[0] for item in group}
    if {name for name in names if re.fullmatch(sources[0], name)} - wanted:
        sources = [
            _regex(
                pieces(source, counted).texts,
                pieces(source, counted).digits,
                pieces(source, counted).optional,
                varying,
                labels,
                used,
                columns,
                exact=True,
            )
            for source in group[0].sources
        ]
        if {name for name in names if re.fullmatch(sources[0], name)} - wanted:
            return None
    return General(tuple(sources), tuple(targets), [*group])


def _arithmetic(
    digits: Sequence[str],
    written: Sequence[tuple[str, ...]],
    varying: Sequence[int],
    labels: dict[int, str],
    used: set[int],
) -> str | None:
    """What makes a target's number of the source's: text, a group, or a sum with it."""
    if len(set(digits)) == 1:
        return digits[0]
    values = [int(text) for text in digits]
    if any(str(value) != text for value, text in zip(values, digits, strict=True)):
        for slot in varying:
            if [*written[slot]] == [*digits]:
                used.add(slot)
                return f"{{{labels[slot]}}}"
        return None
    ranked = []
    for slot in varying:
        own = [int(text or 0) for text in written[slot]]
        for factor in range(1, MOST_FACTOR + 1):
            offset = values[0] - factor * own[0]
            if all(v == factor * o + offset for v, o in zip(values, own, strict=True)):
                ranked.append((factor != 1, abs(offset), slot, factor, offset))
    if not ranked:
        return None
    _, _, slot, factor, offset = min(ranked)
    used.add(slot)
    label = labels[slot]
    product = label if factor == 1 else f"{factor}*{label}"
    if factor == 1 and offset == 0:
        exact = all(str(int(text or 0)) == text for text in written[slot])
        return f"{{{label}}}" if exact else f"{{{label}+0}}"
    return f"{{{product}{offset:+d}}}" if offset else f"{{{product}}}"


def _labels(texts: Sequence[str], varying: Sequence[int]) -> dict[int, str]:
    """A name for each group: the word before the number where it is short."""
    labels: dict[int, str] = {}
    spare = iter("ijkmnpqrstuvwxyz")
    for slot in varying:
        found = re.search(r"([A-Za-z]+)[_\-/]*$", texts[slot])
        label = found[1].lower() if found else ""
        if not 1 <= len(label) <= 5 or iskeyword(label) or label in (*labels.values(), "dots"):
            label = next(s for s in spare if s not in labels.values())
        labels[slot] = label
    return labels


def _regex(
    texts: Sequence[str],
    digits: Sequence[str],
    optional: Iterable[int],
    varying: Sequence[int],
    labels: dict[int, str],
    used: set[int],
    columns: Sequence[tuple[int, ...]],
    exact: bool = False,
) -> str:
    optional = set(optional)
    text = _escaped(texts[0])
    for slot, after in enumerate(texts[1:]):
        if slot not in varying:
            own = digits[slot]
            text += f"_{own}" if slot in optional and own else own
        else:
            body = r"\d+"
            if exact:
                values = sorted(set(columns[slot]))
                body = "|".join(map(str, values))
                body = f"[{body.replace('|', '')}]" if values[-1] < 10 else f"(?:{body})"
            inner = f"(?P<{labels[slot]}>{body})" if slot in used else body
            text += f"(?:_{inner})?" if slot in optional else inner
        text += _escaped(after)
    return text


_TOKEN = re.compile(
    r"\(\?P<\w+>[^()]*(?:\([^()]*\))?[^()]*\)|\(\?:[^()]*\([^()]*\)[^()]*\)\?|\{[^}]*\}|\\.|\[[^]]*\]\+?|[A-Za-z]+\d*|."
)


def merged(found: list[General], names: Sequence[str]) -> list[General]:
    """Templates that differ by one word, the same on both sides, as one with that word a group."""
    done: list[General] = []
    for each in found:
        for i, other in enumerate(done):
            joined = _joined(other, each, names)
            if joined is not None:
                done[i] = joined
                break
        else:
            done.append(each)
    return done


def _joined(a: General, b: General, names: Sequence[str]) -> General | None:
    first, second = a.items[0], b.items[0]
    if (first.form, bool(first.doubts)) != (second.form, bool(second.doubts)):
        return None
    if len(a.sources) != 1 or len(b.sources) != 1 or len(a.targets) != 1 or len(b.targets) != 1:
        return None
    source = _one_word(a.sources[0], b.sources[0])
    target = _one_word(a.targets[0], b.targets[0])
    if source is None or target is None:
        return None
    (before, x, y, after), (before2, x2, y2, after2) = source, target
    known = re.fullmatch(r"\(\?P<(\w+)>([\w|]+)\)", x)
    if known and x2 == f"{{{known[1]}}}" and y.isidentifier() and y == y2:
        label, values = known[1], [*known[2].split("|"), y]
    elif x.isidentifier() and y.isidentifier() and (x, y) == (x2, y2):
        taken = set(re.findall(r"\?P<(\w+)>", before + after))
        label = next(n for n in ("name", "part", "side", "what", "of") if n not in taken)
        values = [x, y]
    else:
        return None
    groups = set(re.findall(r"\(\?P<\w+>\w+(?:\|\w+)+\)", before + after))
    if groups:  # their combinations would all have to be there
        return None
    regex = f"{before}(?P<{label}>{'|'.join(values)}){after}"
    items = a.items + b.items
    if {n for n in names if re.fullmatch(regex, n)} - {item.sources[0] for item in items}:
        return None
    return General((regex,), (f"{before2}{{{label}}}{after2}",), items, a.tables | b.tables)


def _one_word(a: str, b: str) -> tuple[str, str, str, str] | None:
    """What is before the only token that differs, both of it, and what is behind."""
    left, right = _TOKEN.findall(a), _TOKEN.findall(b)
    if len(left) != len(right):
        return None
    differing = [i for i, (x, y) in enumerate(zip(left, right, strict=True)) if x != y]
    if len(differing) != 1:
        return None
    i = differing[0]
    return "".join(left[:i]), left[i], right[i], "".join(left[i + 1 :])
