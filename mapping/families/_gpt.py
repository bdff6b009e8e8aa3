"""What GPTs share.

OpenAI's Conv1D keeps the original's [in, out] in transformers too, so nothing is transposed; the
original's kernels have a leading axis of 1, the width of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tfreader.files import read_small

from ..family import Beside, SideFiles
from ..rules.ops import Squeeze
from ..rules.rule import Rule
from ._tokenizers import is_merges, merges_of, tokenizer_config, word_ids

END = "<|endoftext|>"
LAYER = r"model/h(?P<layer>\d+)"
TO_LAYER = "transformer.h.{layer}"


def conv1d(name: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    target = f"{TO_LAYER}.{name.replace('/', '.')}"
    return (
        Rule((f"{LAYER}/{name}/w",), (f"{target}.weight",), (Squeeze(0),), (1, inputs, outputs)),
        Rule((f"{LAYER}/{name}/b",), (f"{target}.bias",), shape=(outputs,)),
    )


def layer_norm(source: str, target: str, size: str = "n_embd") -> tuple[Rule, ...]:
    return (
        Rule((f"{source}/g",), (f"{target}.weight",), shape=(size,)),
        Rule((f"{source}/b",), (f"{target}.bias",), shape=(size,)),
    )


def bpe_files(
    beside: Beside,
    encoder: tuple[tuple[str, ...], tuple[str, ...], Callable[[bytes], bool]],
    merges: tuple[tuple[str, ...], tuple[str, ...]],
    tokenizer_class: str,
    config: Mapping[str, Any],
    length: str = "n_positions",
) -> SideFiles:
    """A byte-pair tokenizer: words with ids, and merges of words beside them.

    `encoder` and `merges` are what `Beside.find_vocabulary` is told of the files, `length` is the
    config's key of the longest text.
    """
    path, found = beside.find_vocabulary(*encoder)
    if path is None:
        return SideFiles({}, found)
    places = Beside.within([path.parent]) if beside.vocab else beside
    merges_path, also_found = places.find_vocabulary(*merges, is_merges)
    if merges_path is None:
        return SideFiles({}, also_found)
    ids = word_ids(path)
    try:
        contents = merges_of(read_small(merges_path), ids)
    except ValueError as error:
        why = f"{merges_path.name} does not go with {path.name}: {error}"
        return SideFiles({}, (f"{why}; no tokenizer written, --vocab names another",))
    rows, own = config["vocab_size"], config.get("eos_token_id")
    notes = (*found, *also_found)
    if max(ids.values(), default=0) >= rows:
        notes += (
            f"{path.name} has ids up to {max(ids.values())}, the model only {rows} rows: it may "
            "belong to another checkpoint",
        )
    if END in ids and own != ids[END]:
        notes += (
            f"{path.name} has {END} as {ids[END]}, but eos_token_id = {own}, as the config or "
            f"--set says: --set eos_token_id={ids[END]} is what its texts end with",
        )
    files = tokenizer_config(tokenizer_class, model_max_length=config[length])
    return SideFiles(files | {"vocab.json": read_small(path), "merges.txt": contents}, notes)
