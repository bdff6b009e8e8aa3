"""GPT-2 (openai/gpt-2): the released models and copies fine-tuned with the same code.

Variable names and shapes are those of the original src/model.py, tensor names those of
transformers' modeling_gpt2.py. Its Conv1D keeps the original's [in, out], so nothing is transposed;
the original's kernels have a leading axis of 1, the width of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.files import read_small

from ..family import Beside, Config, Family, Layout, SideFiles, Variables, check_heads, same_keys
from ..ops import Squeeze
from ..rule import Architecture, Rule, RuleSet, Tie
from ._tokenizers import none_found, tokenizer_config, too_many, word_ids

END = "<|endoftext|>"
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


def bpe_files(
    beside: Beside, names: Mapping[str, str], tokenizer_class: str, config: Mapping[str, Any]
) -> SideFiles:
    """A byte-pair tokenizer: the original's files under the names that transformers gives them."""
    found = {new: path for old, new in names.items() if (path := beside.find(old))}
    if len(found) < len(names):
        return none_found(beside, " and ".join(names))
    ids = word_ids(found["vocab.json"])
    rows, own = config["vocab_size"], config.get("eos_token_id")
    notes = too_many(found["vocab.json"], max(ids.values(), default=-1) + 1, "ids", rows)
    if own != ids.get(END, own):
        notes += (
            f"encoder.json has {END} as {ids[END]}, the model's last row is {own}: its vocabulary "
            f"is padded; --set eos_token_id={ids[END]} and bos_token_id likewise",
        )
    files = tokenizer_config(tokenizer_class, model_max_length=config["n_positions"])
    return SideFiles(files | {new: read_small(path) for new, path in found.items()}, notes)


class Original(Layout):
    name = "original"
    evidence = (r"model/wte", r"model/h\d+/attn/c_attn/w")

    def describe(self, config: Config, variables: Variables) -> Config:
        """The id of <|endoftext|>, which the original's vocabulary has at its end."""
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

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config from hparams.json, which calls two of the sizes otherwise."""
        return same_keys(original, {"n_vocab": "vocab_size", "n_ctx": "n_positions"})

    def check(self, config: Config) -> None:
        check_heads(config, "n_embd", "n_head")

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        names = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
        return bpe_files(beside, names, "GPT2Tokenizer", config)


FAMILY = GPT2()
