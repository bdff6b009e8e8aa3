"""The files of an output: their names, and which of others would be loaded in their place."""

from __future__ import annotations

import re
from collections.abc import Collection
from os import PathLike
from pathlib import Path

from tfreader.paths import AnyPath, as_path, check_access

RECORD = "conversion.json"
TORCH_SUFFIXES = (".bin", ".pt", ".pth")
FILE_SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")  # of outputs that are one file

WEIGHTS = r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
TOKENIZER = (
    r"(target_)?vocab\.(txt|json)|merges\.txt|bpe\.codes|(source|target)\.spm|normalizer\.json|"
    r"(spiece|spm|tokenizer|sentencepiece(\.bpe)?)\.model|chat_template\.jinja|"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
)
SETTINGS = r"(generation|preprocessor|processor)_config\.json"
OURS = re.compile(rf"{WEIGHTS}|{TOKENIZER}|{SETTINGS}|config\.json|README\.md")
"""Every name that a file in an output folder may have, but for the record."""

# What transformers loads before or together with files of ours. Tokenizers: the names in
# tokenization_utils_base.py of its releases 4 and 5 (a tokenizer.json goes before any vocabulary),
# and tokenization_transfo_xl.py. Adapters: utils/peft_utils.py.
_STRANGERS = (
    (rf"{WEIGHTS}|adapter_config\.json", WEIGHTS),
    (SETTINGS, r"config\.json"),
    (
        rf"{TOKENIZER}|tokenizer(\..*)?\.json|tekken\.json|tiktoken\.model|vocab\.(pkl|bin)",
        TOKENIZER,
    ),
)


def overrules(name: str, ours: Collection[str]) -> str | None:
    """The one of our files that a file of that name goes before or changes, where it is not ours.

    >>> overrules("tokenizer.json", ["config.json", "vocab.txt"])
    'vocab.txt'
    """
    if name in ours:
        return None
    found = (
        own
        for stranger, kind in _STRANGERS
        if re.fullmatch(stranger, name)
        for own in sorted(ours)
        if re.fullmatch(kind, own)
    )
    return next(found, None)


def is_torch_file(name: str) -> bool:
    return name.endswith(TORCH_SUFFIXES)


def record_of(output: AnyPath, is_folder: bool) -> AnyPath:
    """Where the record of a conversion lies: in the output folder, or beside the output file."""
    return output / RECORD if is_folder else output.parent / f"{output.name}.{RECORD}"


def find_record(output: str | PathLike[str]) -> AnyPath | None:
    """The record of a converted folder or file; None where there is none.

    Raises AccessDeniedError where this user may not look for it.
    """
    path = as_path(output)
    if isinstance(path, Path):
        check_access(str(path))
    record = record_of(path, path.is_dir())
    return record if record.is_file() else None
