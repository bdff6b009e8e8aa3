"""What the families' tokenizers have in common: config, letters, sentencepiece."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError
from tfreader.files import read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath
from tfreader.wire import fields

from ..family import Beside, SideFiles

UNKNOWN = "[UNK]"
_SPECIAL_TOKEN = re.compile(r"\[.*\]|<.*>")
_CASED = re.compile(r"(?:^|[._-])(un)?cased(?=[._-])")
_SCORED = re.compile(r"([^\t]+)\t-?\d+(?:\.\d+)?(?:e-?\d+)?\r?")


def tokenizer_config(tokenizer_class: str, **settings: Any) -> dict[str, bytes]:
    """tokenizer_config.json, which tells AutoTokenizer what to make of the other files."""
    settings = {"tokenizer_class": tokenizer_class, **settings}
    return {"tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode()}


def word_pieces(
    checkpoint: Checkpoint,
    beside: Beside,
    config: Mapping[str, Any],
    tokenizer_class: str,
    names: tuple[str, ...] = ("vocab.txt",),
    unknown: str = UNKNOWN,
    **settings: Any,
) -> SideFiles:
    """vocab.txt and a tokenizer_config.json for it.

    The original releases say nowhere in a file whether text is to be lower-cased, which strips its
    accents too; the vocabulary does: by its name, else it has words that either would change,
    beside special tokens like [CLS] and <S>. `names` are the vocabulary's usual ones, `unknown` is
    a token that it has.
    """

    def holds(contents: bytes) -> bool:
        return is_wordpiece(contents, unknown)

    path, found = beside.find_vocabulary(names, ("*vocab*.txt", "*.vocab"), holds)
    if path is None:
        return SideFiles({}, found)
    contents, words = words_of(read_small(path))
    if not holds(contents):
        why = f"no {unknown} in it" if is_text(contents) else "not UTF-8"
        return SideFiles({}, (f"{path}: {why}: no tokenizer written; --vocab FILE names another",))
    plain = [word for word in words if not _SPECIAL_TOKEN.fullmatch(word.strip())]
    accents = has_accents(plain)
    lower, told = config.get("do_lower_case"), "as the config says"
    if lower is None and "do_lower_case" in checkpoint:  # exported by the Garden
        lower, told = bool(checkpoint["do_lower_case"]), "as the module says"
    if lower is None and (name := _CASED.search(path.name)):
        lower, told = name[1] == "un", f"as the name of {path.name} says"
    if lower is None:
        lower = not accents and not has_capitals(plain)
        kinds = "accents, which it would strip" if accents else "capital letters"
        many = "few or no words with accents or" if lower else "many words with"
        told = f"since {path.name} has {many} {kinds}"
    other = f"--set do_lower_case={json.dumps(not lower)}"
    said = (
        f"tokenizer: do_lower_case = {json.dumps(lower)}, {told}; where that is wrong, add {other}"
    )
    if accents:
        said += ", with --set strip_accents=false to keep them"
    settings |= {
        key: config[key] for key in ("strip_accents", "tokenize_chinese_chars") if key in config
    }
    files = tokenizer_config(tokenizer_class, do_lower_case=lower, **settings)
    notes = (*found, said, *too_many(path, len(words), "words", config["vocab_size"]))
    return SideFiles({"vocab.txt": contents, **files}, notes)


def has_capitals(words: Collection[str]) -> bool:
    """Whether a vocabulary was made of text that kept its capital letters.

    A lower-cased one may still hold a few words that were added by hand.
    """
    return sum(word != word.lower() for word in words) * 100 > len(words)


def has_accents(words: Collection[str], composed: bool = False) -> bool:
    """Whether a vocabulary was made of text that kept its accents, as marks of all scripts.

    Text whose accents were stripped is decomposed (NFD, with Hangul in parts) and without marks
    (Mn), so nothing in it changes when that is done again; `composed` says that it was composed
    again since, as sentencepiece does. Of the words of bert-base-uncased 0 of 29,524 change, of the
    cased one 539, of vocabularies for Korean and Kurdish 11,129 of 16,420 and 4,109 of 49,997.
    """
    form: Literal["NFC", "NFD"] = "NFC" if composed else "NFD"

    def stripped(word: str) -> str:
        letters = unicodedata.normalize("NFD", word)
        kept = "".join(c for c in letters if unicodedata.category(c) != "Mn")
        return unicodedata.normalize(form, kept)

    changed = sum(not word.isascii() and stripped(word) != word for word in words)
    return changed * 1000 > len(words)


def pieces_settings(
    path: AnyPath, pieces: Collection[str], config: Mapping[str, Any]
) -> tuple[dict[str, bool], str]:
    """Settings of a sentencepiece tokenizer and what to say of them: as the config or letters tell.

    The originals strip accents in any case; Hugging Face's classes keep them where they are told.
    """
    keeps = has_accents(pieces, composed=True)
    settings = {"do_lower_case": not keeps and not has_capitals(pieces), "keep_accents": keeps}
    told = {key: config[key] for key in settings if key in config}
    settings |= told
    values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    why = "as the config says" if len(told) == len(settings) else f"as {path.name}'s letters tell"
    return settings, f"tokenizer: {values}, {why}; where that is wrong, add --set KEY=VALUE"


def words_of(contents: bytes) -> tuple[bytes, list[str]]:
    """vocab.txt, a word a line, and its words; scores behind them (tab, number) are left out."""
    words = contents.decode("utf-8", "replace").removesuffix("\n").split("\n")
    columns = [_SCORED.fullmatch(word) for word in words]
    if all(columns):
        words = [found[1] for found in columns if found]
        contents = "".join(word + "\n" for word in words).encode()
    return contents, words


def is_wordpiece(contents: bytes, unknown: str = UNKNOWN) -> bool:
    """Whether a tokenizer of word pieces can be made of it."""
    return is_text(contents) and unknown in map(str.strip, words_of(contents)[1])


def is_text(contents: bytes) -> bool:
    """Whether it is UTF-8, as all of transformers' tokenizers ask for."""
    with suppress(ValueError):
        return contents.decode("utf-8") is not None
    return False


def is_sentencepiece(contents: bytes) -> bool:
    with suppress(ConfigError):
        return bool(sentencepieces(Path(), contents))
    return False


def is_words(contents: bytes) -> bool:
    with suppress(ConfigError):
        return bool(_word_ids(Path(), contents))
    return False


def is_merges(contents: bytes) -> bool:
    return any(len(line.split()) == 2 for line in contents.decode("utf-8", "replace").split("\n"))


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
    return _word_ids(path, read_small(path))


def _word_ids(path: AnyPath, contents: bytes) -> dict[str, int]:
    try:
        ids = parse_json(contents.decode("utf-8"))
        if isinstance(ids, dict):
            "".join(ids).encode()  # fails for half a surrogate pair, with which nothing loads
    except ValueError as error:
        raise ConfigError(f"{path}: not a JSON vocabulary: {str(error)[:200]}") from None
    if not isinstance(ids, dict) or any(type(i) is not int or i < 0 for i in ids.values()):
        raise ConfigError(f"{path}: not a JSON vocabulary: ids by word are expected")
    return ids


def merges_of(contents: bytes, words: Collection[str] | None = None, most: int = 2) -> bytes:
    """A file of merges, a line each of two words, or of up to `most`, such as tokenizers load.

    The originals split at any white space and take lines of Windows; what loads the output takes
    one space, and no merge of words that `words` lacks. Raises ValueError, which says why not.
    """
    clean = []
    for number, line in enumerate(contents.decode("utf-8").split("\n"), 1):
        parts = line.split()
        if number > 1 or not line.startswith("#version"):
            if parts and not 2 <= len(parts) <= most:
                raise ValueError(f"line {number} is no merge of two words: {line.strip()!r}")
            needed = (*parts, "".join(parts)) if parts and words is not None else ()
            missing = next((word for word in needed if word not in (words or ())), None)
            if missing is not None:
                raise ValueError(
                    f"line {number} merges {line.strip()!r}, but there is no {missing!r}"
                )
        if parts:
            clean.append(" ".join(parts) + "\n")
    return "".join(clean).encode()


def too_many(path: AnyPath, count: int, noun: str, rows: int) -> tuple[str, ...]:
    """What to say of a vocabulary that is larger than the model's."""
    if count <= rows:
        return ()
    return (
        f"{path.name} has {count} {noun}, the model only {rows} rows: it may belong to another "
        "checkpoint",
    )
