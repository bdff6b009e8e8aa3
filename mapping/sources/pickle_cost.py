"""What unpickling would cost, told from a pickle's operations without carrying them out.

A few bytes can ask for any time or memory: a tuple that holds the last one twice, over and over,
takes for ever to hash as a key, and a call can make a string anew from one that is there, again
and again. Each operation is followed on a stack that holds sizes in place of objects.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from pickle import UnpicklingError
from typing import Any, BinaryIO

LEAST = 1 << 26  # what any pickle may cost, in bytes and steps
PER_BYTE = 64  # and what each of its bytes may cost beyond that

_STRINGS = (str, bytes, bytearray)
_CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS")  # of a container on the stack


class _Size:
    """What stands for an object: its bytes and items, with those of all that it holds.

    A container that is filled later on grows wherever it is held by name.
    """

    __slots__ = ("of",)

    def __init__(self, of: int) -> None:
        self.of = of


_MARK = _Size(0)  # below the items of a container


class TooCostlyError(Exception):
    """A pickle asks for more than its size accounts for."""


def names_in(file: BinaryIO) -> set[str]:
    """The names that the pickle at the file's position asks for, as "module name".

    The file is left behind its end. Raises UnpicklingError where it is damaged, TooCostlyError.
    """
    start = file.tell()
    stack: list[_Size] = []
    memo: dict[int, _Size] = {}
    names: set[str] = set()
    texts: list[str] = []  # the last strings, of which STACK_GLOBAL takes two
    total = 0  # but for the strings in it, which cost what they take in the file
    for op, argument, position in _operations(file):
        name = op.name
        if isinstance(argument, str):
            texts = [*texts[-1:], argument]
        if name in ("GLOBAL", "INST"):
            names.add(str(argument))
        elif name == "STACK_GLOBAL":
            names.add(" ".join(texts))
        if name in _PUTS:
            if argument is not None and argument > position - start:  # Python has a table of them
                raise TooCostlyError(f"its pickle asks for a table of {argument} objects")
            memo[len(memo) if name == "MEMOIZE" else argument] = _pop(stack[-1:])
        elif name in _GETS:
            if argument not in memo:
                raise UnpicklingError(f"it refers to object {argument}, which is not there")
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(_pop(stack[-1:]))
        elif name in _FILLS:
            container, *items = _take(stack, op.stack_before)
            added = sum(item.of for item in items)
            container.of += added
            total += added
            stack.append(container)
        else:
            taken = sum(item.of for item in _take(stack, op.stack_before))
            own = len(argument) if isinstance(argument, _STRINGS) else 1
            # A call may copy what it is given; a tuple is hashed by going through all it holds.
            total += 1 + (taken if name in _CALLS or name.startswith("TUPLE") else 0)
            stack += [_Size(own + taken) for _ in op.stack_after]
        if total > LEAST + PER_BYTE * (position - start):
            raise TooCostlyError(
                f"{position - start} bytes of its pickle ask for {total} steps or bytes of memory"
            )
    return names


def _operations(file: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
    try:
        for op, argument, position in pickletools.genops(file):
            assert position is not None  # as the file tells where it is
            yield op, argument, position
    except (ValueError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        raise UnpicklingError(f"no pickle: {error}") from None


def _pop(stack: list[_Size]) -> _Size:
    if not stack:
        raise UnpicklingError("it takes from an empty stack")
    return stack.pop()


def _take(stack: list[_Size], wanted: list[pickletools.StackObject]) -> list[_Size]:
    """Take what an operation wants off the stack, the lowest first."""
    taken: list[_Size] = []
    for kind in reversed(wanted):
        if kind is pickletools.stackslice:
            while (item := _pop(stack)) is not _MARK:
                taken.append(item)
        elif kind is not pickletools.markobject:
            taken.append(_pop(stack))
    return taken[::-1]
