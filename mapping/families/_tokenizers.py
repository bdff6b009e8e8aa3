"""What the families' tokenizers have in common: config, letters, sentencepiece."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from tfreader.errors import ConfigError
from tfreader.files import read_small
from tfreader.paths import AnyPath
from tfreader.wire import fields

from ..family import Beside, SideFiles


def tokenizer_config(tokenizer_class: str, **settings: Any) -> dict[str, bytes]:
    """tokenizer_config.json, which tells AutoTokenizer what to make of the other files."""
    settings = {"tokenizer_class": tokenizer_class, **settings}
    return {"tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode()}


def none_found(beside: Beside, *names: str) -> SideFiles:
    return SideFiles({}, (f"no {' or '.join(names)} in {beside}: no tokenizer written",))


def is_cased(words: Collection[str]) -> bool:
    """Whether a vocabulary was made of text that kept its capital letters.

    A lower-cased one may still hold a few words that were added by hand.
    """
    capital = sum(word != word.lower() for word in words)
    return capital * 100 > len(words)


def sentencepieces(path: AnyPath, contents: bytes) -> list[str]:
    """The pieces of a sentencepiece model: field 1 of each message in field 1.

    Raises ConfigError where the file is none.
    """
    try:
        pieces = [
            bytes(text).decode("utf-8")
            for number, _, piece in fields(memoryview(contents))
            if number == 1
            for inner, _, text in fields(piece)
            if inner == 1
        ]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a sentencepiece model: {error}") from None
    if not pieces:
        raise ConfigError(f"{path}: not a sentencepiece model: it has no pieces")
    return pieces


def word_ids(path: AnyPath) -> dict[str, int]:
    """The words of a JSON vocabulary with their ids.

    Raises ConfigError where the file is none, OSError where it cannot be read.
    """
    try:
        ids = json.loads(read_small(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON vocabulary: {str(error)[:200]}") from None
    if not isinstance(ids, dict) or any(type(index) is not int for index in ids.values()):
        raise ConfigError(f"{path}: not a JSON vocabulary: ids by word are expected")
    return ids


def too_many(path: AnyPath, count: int, noun: str, rows: int) -> tuple[str, ...]:
    """What to say of a vocabulary that is larger than the model's."""
    if count <= rows:
        return ()
    return (
        f"{path.name} has {count} {noun}, the model only {rows} rows: it may belong to another "
        "checkpoint",
    )
