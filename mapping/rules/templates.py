"""Templates of names: text with the values of a source's groups in braces.

Between braces may stand a group, an entry of a table by a group (`{bn[p]}`), arithmetic on groups
that are numbers (`{2*i-2}`; one that matched nothing counts as 0), and `dots(path)`, which puts
dots for the slashes of a path.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from tfreader.errors import RuleError

from .schema import meant, quoted, shown

Tables = Mapping[str, Mapping[str, str]]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_MOST_SYMBOLS = 100
_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[int, int], int]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
}
_HINT = (
    "braces go around a group's name, or what is made of it: write a group, {i}, sums and products "
    "of groups, {2*i-2}, an entry of a table, {bn[p]}, or a path with dots for slashes, "
    "{dots(path)}"
)


def fill_in(template: str, groups: Mapping[str, object], tables: Tables | None = None) -> str:
    """The name that a template makes of the values of its groups.

    Raises RuleError where a table lacks a value, or arithmetic makes no number of a name.

    >>> fill_in("layer.{layer-1}.weight", {"layer": "3"})
    'layer.2.weight'
    """

    def value(match: re.Match[str]) -> str:
        text = match[1]
        if text.isidentifier():
            return str(groups[text])
        node = _parsed(text)
        if isinstance(node, ast.Subscript):
            return _entry(node, groups, tables or {})
        if isinstance(node, ast.Call):
            return str(groups[ast.unparse(node.args[0])]).replace("/", ".")
        number = _number(node, groups)
        if number < 0:
            raise RuleError(f"{{{text}}} is {number}, and numbers in names start at 0")
        return str(number)

    return _PLACEHOLDER.sub(value, template)


def _entry(node: ast.Subscript, groups: Mapping[str, object], tables: Tables) -> str:
    table, key = ast.unparse(node.value), str(groups[ast.unparse(node.slice)])
    if key not in tables[table]:
        raise RuleError(
            f"[table.{table}] has no {shown(key)}{meant(key, tables[table])}; add it, or narrow "
            f"the group {ast.unparse(node.slice)} of the source"
        )
    return tables[table][key]


def _number(node: ast.AST, groups: Mapping[str, object]) -> int:
    if isinstance(node, ast.Constant):
        return int(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        text = str(groups[node.id]) or "0"
        if not re.fullmatch("[0-9]{1,18}", text):
            raise RuleError(f"group {node.id} is {shown(text)}, and arithmetic needs a number")
        return int(text)
    assert isinstance(node, ast.BinOp)
    left, right = _number(node.left, groups), _number(node.right, groups)
    sign, function = _OPERATORS[type(node.op)]
    if sign in ("//", "%") and right == 0:
        raise RuleError(f"{ast.unparse(node)}: division by zero")
    return function(left, right)


@lru_cache(1000)
def _parsed(text: str) -> ast.expr:
    """What stands in braces. Raises RuleError for what is none of the forms above."""
    try:
        node = ast.parse(text.strip(), mode="eval").body if len(text) <= _MOST_SYMBOLS else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        node = None
    if isinstance(node, ast.Subscript):
        fits = isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Name)
    elif isinstance(node, ast.Call):
        is_dots = isinstance(node.func, ast.Name) and node.func.id == "dots" and not node.keywords
        fits = is_dots and len(node.args) == 1 and isinstance(node.args[0], ast.Name)
    else:
        names = () if node is None else ast.walk(node)
        fits = (
            node is not None
            and _is_arithmetic(node)
            and any(isinstance(each, ast.Name) for each in names)
        )
    if node is None or not fits:
        raise RuleError(f"{{{text[:_MOST_SYMBOLS]}}}: {_HINT}")
    return node


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _OPERATORS and all(map(_is_arithmetic, (node.left, node.right)))
    if isinstance(node, ast.Constant):
        return type(node.value) is int and abs(node.value) < 1 << 31
    return isinstance(node, ast.Name)


def placeholders(template: str, what: str, tables: Tables | None = None) -> set[str]:
    """The groups in a template's braces. Raises RuleError where it is no template."""
    if re.search(r"\\[\w.]|\$\d", template):
        raise RuleError(
            f"{what} {quoted(template)}: it is no regular expression, backslashes and $ mean "
            "nothing in it: name a group in the source, (?P<n>...), and say {n} here"
        )
    if set("{}") & set(_PLACEHOLDER.sub("", template)):
        raise RuleError(f"{what} {quoted(template)}: braces go around a group's name")
    found: set[str] = set()
    for text in _PLACEHOLDER.findall(template):
        if text.isidentifier():
            found.add(text)
            continue
        try:
            node = _parsed(text)
        except RuleError as error:
            raise RuleError(f"{what} {quoted(template)}: {error}") from None
        names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        if isinstance(node, ast.Subscript):
            table = ast.unparse(node.value)
            names = {ast.unparse(node.slice)}
            if table not in (tables or {}):
                raise RuleError(
                    f"{what} {quoted(template)}: there is no [table.{table}]"
                    f"{meant(table, tables or {})}"
                )
        found |= names - {"dots"} if isinstance(node, ast.Call) else names
    return found


def as_regex(template: str) -> re.Pattern[str]:
    """What a template may become; its groups go by whichever names."""
    pieces = _PLACEHOLDER.split(template)
    pieces[::2] = map(re.escape, pieces[::2])
    pieces[1::2] = [".+" if piece.startswith("dots(") else "[^.]+" for piece in pieces[1::2]]
    return re.compile("".join(pieces))
