"""OpenAI's first GPT (openai/finetune-transformer-lm), released as params_N.npy files.

Variable names and shapes are those of the original train.py, tensor names those of transformers'
modeling_openai.py, whose Conv1D keeps the original's [in, out].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.paths import AnyPath

from ..config_keys import keys_of
from ..family import Beside, Config, Family, Layout, SideFiles, Variables, check_heads, same_keys
from ..rules.rule import Architecture, Drop, Rule, RuleSet, Tie
from ..sources.npy import open_params
from ._gpt import LAYER, TO_LAYER, bpe_files, conv1d, layer_norm
from ._tokenizers import is_words

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


class Original(Layout):
    name = "original"
    evidence = (r"model/we/tokens", r"model/h\d+/attn/c_attn/w")

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        return RULES


class OpenAIGPT(Family):
    model_type = "openai-gpt"
    layouts = (Original(),)
    aliases = ("gpt", "openai-community/openai-gpt")
    config_files = ("config.json",)
    output_weight = "lm_head.weight"
    defaults: ClassVar = {
        "afn": "gelu",  # transformers' word here for the tanh form, which the original computes
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }
    needs = ("n_head",)
    pads = False

    def open(self, path: AnyPath) -> Checkpoint | None:
        return open_params(path)

    def translate(self, original: Mapping[str, Any]) -> Config:
        config = same_keys(original, keys_of(self.model_type).aliases)
        # Rows that fine-tuning adds behind the vocabulary (_start_, _delimiter_, _classify_).
        special = config.pop("n_special", 0)
        if isinstance(special, int) and isinstance(config.get("vocab_size"), int):
            config["vocab_size"] += special
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        """Heads of 64, as the released model and those after it have; no file of it tells."""
        return {"n_head": config["n_embd"] // 64} if config["n_embd"] % 64 == 0 else {}

    def check(self, config: Config) -> None:
        check_heads(config, "n_embd", "n_head")

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        names = ("encoder_bpe_40000.json", "vocab.json")
        encoder = names, ("*encoder*.json", "*vocab*.json"), is_words
        merges = ("vocab_40000.bpe", "merges.txt"), ("*.bpe", "*merges*.txt")
        return bpe_files(beside, encoder, merges, "OpenAIGPTTokenizer", config)


FAMILY = OpenAIGPT()
