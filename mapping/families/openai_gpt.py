"""OpenAI's first GPT (openai/finetune-transformer-lm), released as params_N.npy files.

Variable names and shapes are those of the original train.py, tensor names those of transformers'
modeling_openai.py, whose Conv1D keeps the original's [in, out].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..family import Config, Family, SideFiles, same_keys
from ..ops import Squeeze
from ..rule import Architecture, Drop, Rule, RuleSet, Tie
from ..sources.npy import open_params

LAYER = r"model/h(?P<layer>\d+)"
TO_LAYER = "transformer.h.{layer}"


def conv1d(name: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    target = f"{TO_LAYER}.{name.replace('/', '.')}"
    return (
        Rule((f"{LAYER}/{name}/w",), (f"{target}.weight",), (Squeeze(0),), (1, inputs, outputs)),
        Rule((f"{LAYER}/{name}/b",), (f"{target}.bias",), shape=(outputs,)),
    )


def layer_norm(name: str) -> tuple[Rule, ...]:
    return (
        Rule((f"{LAYER}/{name}/g",), (f"{TO_LAYER}.{name}.weight",), shape=("n_embd",)),
        Rule((f"{LAYER}/{name}/b",), (f"{TO_LAYER}.{name}.bias",), shape=("n_embd",)),
    )


RULES = RuleSet(
    family="openai-gpt",
    name="openai-gpt",
    counts={"layer": "n_layer"},
    rules=(
        Rule(
            ("model/we/tokens",),
            ("transformer.tokens_embed.weight",),
            shape=("vocab_size", "n_embd"),
        ),
        Rule(
            ("model/we/positions",),
            ("transformer.positions_embed.weight",),
            shape=("n_positions", "n_embd"),
        ),
        *conv1d("attn/c_attn", "n_embd", "3*n_embd"),
        *conv1d("attn/c_proj", "n_embd", "n_embd"),
        *layer_norm("ln_1"),
        *conv1d("mlp/c_fc", "n_embd", "4*n_embd"),
        *conv1d("mlp/c_proj", "4*n_embd", "n_embd"),
        *layer_norm("ln_2"),
    ),
    drops=(Drop("model/clf/[wb]", "the original's classifier head, which transformers lacks"),),
    ties=(Tie("lm_head.weight", "transformer.tokens_embed.weight", "lm"),),
    architectures=(
        Architecture("OpenAIGPTLMHeadModel", ("model", "lm")),
        Architecture("OpenAIGPTModel", ("model",), strip="transformer."),
    ),
)


def translate(original: Mapping[str, Any]) -> Config:
    config = same_keys(original)
    # n_ctx is the older name of n_positions.
    if "n_ctx" in config:
        config.setdefault("n_positions", config["n_ctx"])
    return config


def side_files(folder: Path, config: Mapping[str, Any]) -> SideFiles:
    """The tokenizer, under the names that transformers gives its files."""
    names = {"encoder_bpe_40000.json": "vocab.json", "vocab_40000.bpe": "merges.txt"}
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return SideFiles({}, (f"no {' and no '.join(missing)} in {folder}: no tokenizer written",))
    tokenizer = {"tokenizer_class": "OpenAIGPTTokenizer", "model_max_length": config["n_positions"]}
    contents = {new: (folder / old).read_bytes() for old, new in names.items()}
    contents["tokenizer_config.json"] = (json.dumps(tokenizer, indent=2) + "\n").encode()
    return SideFiles(contents)


FAMILY = Family(
    model_type="openai-gpt",
    aliases=("gpt", "openai-community/openai-gpt"),
    rules=RULES,
    evidence=(r"model/we/tokens", r"model/h\d+/attn/c_attn/w"),
    config_files=("config.json",),
    open=open_params,
    translate=translate,
    defaults={
        "afn": "gelu",  # transformers' word here for the tanh form, which the original computes
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    needs=("n_head",),
    side_files=side_files,
)
