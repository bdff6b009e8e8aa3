"""GPT-2 (openai/gpt-2): the released models and copies fine-tuned with the same code.

Variable names and shapes are those of the original src/model.py, tensor names those of
transformers' modeling_gpt2.py. Its Conv1D keeps the original's [in, out], so nothing is transposed;
the original's kernels have a leading axis of 1, the width of a convolution.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfreader.checkpoint import TensorInfo
from tfreader.errors import ConfigError

from ..family import Config, Family, SideFiles, same_keys
from ..ops import Squeeze
from ..rule import Architecture, Rule, RuleSet, Tie

LAYER = r"model/h(?P<layer>\d+)"
TO_LAYER = "transformer.h.{layer}"


def conv1d(name: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    target = f"{TO_LAYER}.{name.replace('/', '.')}"
    return (
        Rule((f"{LAYER}/{name}/w",), (f"{target}.weight",), (Squeeze(0),), (1, inputs, outputs)),
        Rule((f"{LAYER}/{name}/b",), (f"{target}.bias",), shape=(outputs,)),
    )


def layer_norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule((f"{source}/g",), (f"{target}.weight",), shape=("n_embd",)),
        Rule((f"{source}/b",), (f"{target}.bias",), shape=("n_embd",)),
    )


RULES = RuleSet(
    family="gpt2",
    name="gpt2",
    counts={"layer": "n_layer"},
    rules=(
        Rule(("model/wte",), ("transformer.wte.weight",), shape=("vocab_size", "n_embd")),
        Rule(("model/wpe",), ("transformer.wpe.weight",), shape=("n_positions", "n_embd")),
        *layer_norm(LAYER + "/ln_1", TO_LAYER + ".ln_1"),
        *conv1d("attn/c_attn", "n_embd", "3*n_embd"),
        *conv1d("attn/c_proj", "n_embd", "n_embd"),
        *layer_norm(LAYER + "/ln_2", TO_LAYER + ".ln_2"),
        *conv1d("mlp/c_fc", "n_embd", "4*n_embd"),
        *conv1d("mlp/c_proj", "4*n_embd", "n_embd"),
        *layer_norm("model/ln_f", "transformer.ln_f"),
    ),
    ties=(Tie("lm_head.weight", "transformer.wte.weight", "lm"),),
    architectures=(
        Architecture("GPT2LMHeadModel", ("model", "lm")),
        Architecture("GPT2Model", ("model",), strip="transformer."),
    ),
)


def translate(original: Mapping[str, Any]) -> Config:
    """Hugging Face's config from hparams.json, which calls two of the sizes otherwise."""
    renamed = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
    config = same_keys({renamed.get(key, key): value for key, value in original.items()})
    size, heads = config.get("n_embd"), config.get("n_head")
    if isinstance(size, int) and isinstance(heads, int) and (heads < 1 or size % heads):
        raise ConfigError(f"n_embd = {size} is not a multiple of n_head = {heads}")
    return config


def describe(config: Config, variables: Mapping[str, TensorInfo]) -> Config:
    """The id of <|endoftext|>, which the original's vocabulary has at its end."""
    words = variables.get("model/wte")
    if words is None or not words.shape:
        return {}
    end = {"bos_token_id": words.shape[0] - 1, "eos_token_id": words.shape[0] - 1}
    return {key: value for key, value in end.items() if key not in config}


def bpe_files(
    folder: Path, names: Mapping[str, str], tokenizer_class: str, config: Mapping[str, Any]
) -> SideFiles:
    """A byte-pair tokenizer: the original's files under the names that transformers gives them."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return SideFiles({}, (f"no {' and no '.join(missing)} in {folder}: no tokenizer written",))
    tokenizer = {"tokenizer_class": tokenizer_class, "model_max_length": config["n_positions"]}
    contents = {new: (folder / old).read_bytes() for old, new in names.items()}
    contents["tokenizer_config.json"] = (json.dumps(tokenizer, indent=2) + "\n").encode()
    return SideFiles(contents)


def side_files(folder: Path, config: Mapping[str, Any]) -> SideFiles:
    names = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
    return bpe_files(folder, names, "GPT2Tokenizer", config)


FAMILY = Family(
    model_type="gpt2",
    aliases=("openai-community/gpt2",),
    rules=RULES,
    evidence=(r"model/wte", r"model/h\d+/attn/c_attn/w"),
    config_files=("hparams.json",),
    translate=translate,
    describe=describe,
    defaults={
        "activation_function": "gelu_new",  # the original's gelu is the tanh form
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    needs=("n_head",),
    side_files=side_files,
)
