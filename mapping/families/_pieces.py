"""The tokenizer of BERT's kin whose vocabulary is a sentencepiece model."""

from __future__ import annotations

from tfreader.files import read_small

from ..family import Beside, Config, SideFiles
from ._tokenizers import (
    is_sentencepiece,
    pieces_settings,
    sentencepieces,
    tokenizer_config,
    too_many,
)


def pieces_files(
    beside: Beside, config: Config, name: str, tokenizer_class: str, *, has_letters: bool
) -> SideFiles:
    """The sentencepiece model, under the `name` that the tokenizer's class looks for, and a config.

    `has_letters` says that the class may lower-case text and strip its accents, which letters tell.
    """
    names = dict.fromkeys((name, "spiece.model", "sentencepiece.model"))
    path, found = beside.find_vocabulary((*names,), ("*.model",), is_sentencepiece)
    if path is None:
        return SideFiles({}, found)
    contents = read_small(path)
    pieces = sentencepieces(path, contents)
    settings: dict[str, bool] = {}
    notes = found
    if has_letters:
        settings, said = pieces_settings(path, pieces, config)
        notes += (said,)
    length = config["max_position_embeddings"]
    files = tokenizer_config(tokenizer_class, **settings, model_max_length=length)
    notes += too_many(path, len(pieces), "pieces", config["vocab_size"])
    return SideFiles({name: contents, **files}, notes)
