"""GPT-2 (openai/gpt-2): the released models and copies fine-tuned with the same code.

Variable names and shapes are those of the original src/model.py, tensor names those of
transformers' modeling_gpt2.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError

from ..config_keys import keys_of
from ..family import Beside, Config, Family, Layout, SideFiles, Variables, check_heads, same_keys
from ..rules.rule import Architecture, Rule, RuleSet, Tie
from ._gpt import END, LAYER, TO_LAYER, bpe_files, conv1d, layer_norm
from ._tokenizers import is_words, word_ids

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


ENCODER = ("encoder.json", "vocab.json"), ("*encoder*.json", "*vocab*.json"), is_words
MERGES = ("vocab.bpe", "merges.txt"), ("*.bpe", "*merges*.txt")


class Original(Layout):
    name = "original"
    evidence = (r"model/wte", r"model/h\d+/attn/c_attn/w")

    def describe(self, config: Config, variables: Variables) -> Config:
        """The id of <|endoftext|>: without a vocabulary the last, as in the original's."""
        told: Config = {}
        words, inner = variables.get("model/wte"), variables.get("model/h0/mlp/c_fc/w")
        if words is not None and words.shape:
            end = {"bos_token_id": words.shape[0] - 1, "eos_token_id": words.shape[0] - 1}
            told |= {key: value for key, value in end.items() if key not in config}
        if inner is not None and inner.shape and "n_inner" in config:
            told["n_inner"] = inner.shape[-1]
        return told

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        return RULES


class GPT2(Family):
    model_type = "gpt2"
    layouts = (Original(),)
    aliases = ("openai-community/gpt2",)
    config_files = ("hparams.json",)
    fixed: ClassVar = {"add_cross_attention": False}
    output_weight = "lm_head.weight"
    defaults: ClassVar = {
        "activation_function": "gelu_new",  # the original's gelu is the tanh form
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }
    needs = ("n_head",)
    pads = False

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config from hparams.json, which calls two of the sizes otherwise."""
        return same_keys(original, keys_of(self.model_type).aliases)

    def from_vocabulary(self, beside: Beside, variables: Variables) -> Config:
        """The id of <|endoftext|> in encoder.json: a table of words may be padded behind it."""
        path, _ = beside.find_vocabulary(*ENCODER)
        words = variables.get("model/wte")
        with suppress(ConfigError, OSError):  # what is wrong with it is told where it is needed
            end = word_ids(path).get(END) if path is not None else None
            if end is not None and words is not None and words.shape and end < words.shape[0]:
                return {"bos_token_id": end, "eos_token_id": end}
        return {}

    def check(self, config: Config) -> None:
        check_heads(config, "n_embd", "n_head")

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        return bpe_files(beside, ENCODER, MERGES, "GPT2Tokenizer", config)


FAMILY = GPT2()
