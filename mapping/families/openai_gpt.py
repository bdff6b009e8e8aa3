"""OpenAI's first GPT (openai/finetune-transformer-lm), released as params_N.npy files.

Variable names and shapes are those of the original train.py, tensor names those of transformers'
modeling_openai.py, whose Conv1D keeps the original's [in, out].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfreader.checkpoint import Checkpoint, TensorInfo

from ..family import Beside, Config, Family, SideFiles, same_keys
from ..rule import Architecture, Drop, Rule, RuleSet, Tie
from ..sources.npy import open_params
from .gpt2 import LAYER, TO_LAYER, bpe_files, check, conv1d, layer_norm

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
        *layer_norm(LAYER + "/ln_1", TO_LAYER + ".ln_1"),
        *conv1d("mlp/c_fc", "n_embd", "4*n_embd"),
        *conv1d("mlp/c_proj", "4*n_embd", "n_embd"),
        *layer_norm(LAYER + "/ln_2", TO_LAYER + ".ln_2"),
    ),
    drops=(Drop("model/clf/[wb]", "the original's classifier head, which transformers lacks"),),
    ties=(Tie("lm_head.weight", "transformer.tokens_embed.weight", "lm"),),
    architectures=(
        Architecture("OpenAIGPTLMHeadModel", ("model", "lm")),
        Architecture("OpenAIGPTModel", ("model",), strip="transformer."),
    ),
)


def translate(original: Mapping[str, Any]) -> Config:
    config = same_keys(original, {"n_ctx": "n_positions"})  # its older name
    # Rows that fine-tuning adds behind the vocabulary (_start_, _delimiter_, _classify_).
    special = config.pop("n_special", 0)
    if isinstance(special, int) and isinstance(config.get("vocab_size"), int):
        config["vocab_size"] += special
    return config


def assume(config: Config, _: Mapping[str, TensorInfo]) -> Config:
    """Heads of 64, as the released model and those after it have; its files tell of no config."""
    return {"n_head": config["n_embd"] // 64} if config["n_embd"] % 64 == 0 else {}


def side_files(_: Checkpoint, beside: Beside, config: Mapping[str, Any]) -> SideFiles:
    names = {"encoder_bpe_40000.json": "vocab.json", "vocab_40000.bpe": "merges.txt"}
    return bpe_files(beside, names, "OpenAIGPTTokenizer", config)


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
    assume=assume,
    needs=("n_head",),
    check=check,
    side_files=side_files,
)
