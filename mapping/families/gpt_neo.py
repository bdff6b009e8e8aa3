"""GPT-Neo (EleutherAI/gpt-neo), as Mesh TensorFlow saves it.

Variable names and shapes are those of the original's models/gpt2/gpt2.py and models/layers.py,
tensor names those of transformers' modeling_gpt_neo.py. Every kernel is [in, out] and transposed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, PlanError

from ..config_keys import keys_of
from ..family import (
    Beside,
    Config,
    Family,
    Layout,
    SideFiles,
    Told,
    Variables,
    check_heads,
    same_keys,
)
from ..rules.ops import Slice, Transpose
from ..rules.rule import Architecture, Rule, RuleSet, Tie
from ..rules.schema import shown
from ._builders import dense
from ._encoder import HIDDEN
from ._gpt import TO_LAYER, bpe_files, layer_norm
from ._tokenizers import is_words

LAYER = r"gpt2/h(?P<layer>\d+)"
WORDS, VOCABULARY = "gpt2/wte", "vocab_size"
GPT2_WORDS = 50257
INNER = "4*hidden_size"
LAYERS = "attention_layers"  # attention_types once more, as transformers' class spells them out
WINDOW = 256  # the original's local_attention_radius, where no config says it
RULES = (
    Rule(("gpt2/wpe",), ("transformer.wpe.weight",), shape=("max_position_embeddings", HIDDEN)),
    *layer_norm(f"{LAYER}/norm_1", f"{TO_LAYER}.ln_1", HIDDEN),
    Rule(
        (f"{LAYER}/attn/(?P<name>q|k|v)",),
        (f"{TO_LAYER}.attn.attention.{{name}}_proj.weight",),
        (Transpose(),),
        (HIDDEN, HIDDEN),
    ),
    Rule(
        (f"{LAYER}/attn/o",),
        (f"{TO_LAYER}.attn.attention.out_proj.weight",),
        (Transpose(),),
        (HIDDEN, HIDDEN),
    ),
    Rule(
        (f"{LAYER}/attn/compute_output_bias/o_b",),
        (f"{TO_LAYER}.attn.attention.out_proj.bias",),
        shape=(HIDDEN,),
    ),
    *layer_norm(f"{LAYER}/norm_2", f"{TO_LAYER}.ln_2", HIDDEN),
    *dense("model", f"{LAYER}/mlp/conv1d_main/c_fc", f"{TO_LAYER}.mlp.c_fc", HIDDEN, INNER),
    *dense("model", f"{LAYER}/mlp/conv1d_main/c_proj", f"{TO_LAYER}.mlp.c_proj", INNER, HIDDEN),
    *layer_norm("gpt2/ln_f", "transformer.ln_f", HIDDEN),
)
# What no class of transformers computes, by the variables that only it has.
OTHERS = {
    r"gpt2/axial_wpe_[12]": "its positions are sums of two tables (axial_pos_emb)",
    r"gpt2/wte_final_linear/.*": "its output layer is its own, without a norm before it "
    "(no_weight_tie)",
    r"gpt2/(?:attn|mlp|norm_[12])/.*": "its blocks are one (share_parameters)",
    r"gpt2/(?:h\d+/)?norm_rezero_[12]/g": "its blocks have weights in place of norms (rezero)",
    r"gpt2/(?:h\d+/)?mlp_macaron/.*": "its blocks have a second feed-forward layer (macaron)",
    r"gpt2/(?:h\d+/)?attn/(?:.*/)?mem_[kv]": "its attention has keys and values of memory "
    "(num_mem_kv)",
    r"gpt2/h\d+/(?!attn/|mlp/|norm_[12]/).*": "some of its feed-forward layers have experts "
    "(moe_layers)",
}
# The original's activation_fn, by the names that transformers has for them.
ACTIVATIONS = {
    "gelu": "gelu_new",
    "id": "linear",
    "lrelu001": "leaky_relu",
    "mish": "mish",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "tanh": "tanh",
}
ENCODER = ("encoder.json", "vocab.json"), ("*encoder*.json", "*vocab*.json"), is_words
MERGES = ("vocab.bpe", "merges.txt"), ("*.bpe", "*merges*.txt")


def other_model(variables: Variables) -> str | None:
    """What tells that these are of a model that no class computes, None where nothing does."""
    for regex, what in OTHERS.items():
        found = next(filter(re.compile(regex).fullmatch, variables), None)
        if found is not None:
            return f"{found}: {what}"
    if variables and "gpt2/wpe" not in variables:
        return "there is no gpt2/wpe: its positions are rotations (rotary_emb)"
    shapes = {name: info.shape for name, info in variables.items()}
    for name, shape in shapes.items():
        layer = re.fullmatch(r"(gpt2/h\d+)/norm_2/g", name)
        if layer is None:
            continue
        if not shape:
            return f"{name}: its norms have one weight for all dimensions (scalenorm)"
        if f"{layer[1]}/attn/q" not in variables:
            return f"{layer[1]} has no attention (attention type none)"
        inner = f"{layer[1]}/mlp/conv1d_main/c_fc/kernel"
        outer = shapes.get(inner.replace("c_fc", "c_proj"), ())
        if outer and shapes.get(inner, ())[1:] == (2 * outer[0],):
            return f"{inner}: its feed-forward layers are gated (mlp_glu)"
    return None


class Original(Layout):
    name = "original"
    evidence = (WORDS, r"gpt2/(?:h\d+/)?(?:attn/[qkvo]|mlp/conv1d_main/.*|mlp_macaron/.*)")

    def describe(self, config: Config, variables: Variables) -> Config:
        """The rows there are, and <|endoftext|>: GPT-2's where it is a row of the table."""
        rows = _rows(variables)
        if rows is None:
            return {}
        end = GPT2_WORDS - 1 if rows >= GPT2_WORDS else None
        told = {
            VOCABULARY: rows,
            "eos_token_id": end,
            "bos_token_id": config.get("eos_token_id", end),
        }
        return {key: value for key, value in told.items() if key not in config}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """The table is cut where the config has fewer words. Raises PlanError for other models."""
        if other := other_model(variables):
            raise PlanError(f"{other}: transformers' GPT-Neo computes something else")
        is_cut = config.get(VOCABULARY, 0) < (_rows(variables) or 0)
        words = Rule(
            (WORDS,),
            ("transformer.wte.weight",),
            (Slice(0, 0, VOCABULARY),) if is_cut else (),
            ("*" if is_cut else VOCABULARY, HIDDEN),
        )
        return RuleSet(
            family="gpt_neo",
            name="gpt_neo",
            counts={"layer": "num_layers"},
            rules=(words, *RULES),
            ties=(Tie("lm_head.weight", "transformer.wte.weight", "lm"),),
            architectures=(
                Architecture("GPTNeoForCausalLM", ("model", "lm")),
                Architecture("GPTNeoModel", ("model",), strip="transformer."),
            ),
        )

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """Raises PlanError where the user did not ask for fewer words than there are rows."""
        rows = _rows(variables) or 0
        words = config.get(VOCABULARY, rows)
        if words < rows and VOCABULARY not in asked:
            raise PlanError(
                f"{VOCABULARY} = {words} in the config, but {WORDS} has {rows} rows: the config "
                f"belongs to another model; where only padding lies behind the words, --set "
                f"{VOCABULARY}={words} leaves it out"
            )
        if words < rows:
            return Told(notes=(f"{WORDS}: rows {words} to {rows - 1} left out, as asked",))
        if rows > GPT2_WORDS:
            note = (
                f"{WORDS}: all {rows} rows are kept; where those behind the tokenizer's words are "
                f"padding, --set {VOCABULARY}=N leaves them out (GPT-2's has {GPT2_WORDS})"
            )
            return Told(notes=(note,))
        return Told()


def _rows(variables: Variables) -> int | None:
    info = variables.get(WORDS)
    return info.shape[0] if info is not None and info.shape else None


def groups_of(types: Any) -> list[tuple[list[str], int]]:
    """Kinds of attention, and how often they come one after the other; `[[[KIND, ...], TIMES]]`.

    Raises ConfigError for what is of another form.
    """
    groups = []
    for group in types if isinstance(types, list | tuple) else [types]:
        match group:
            case [[*kinds], int(times)] if times >= 0 and all(type(k) is str for k in kinds):
                groups.append((kinds, times))
            case _:
                raise ConfigError(
                    f"attention_types = {shown(types)}, expected lists of kinds and how often they "
                    'come, as [[["global", "local"], 12]]'
                )
    return groups


class GPTNeo(Family):
    model_type = "gpt_neo"
    layouts = (Original(),)
    aliases = ("gpt-neo",)
    config_files = ("config.json",)
    output_weight = "lm_head.weight"
    defaults: ClassVar = {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
    needs = ("num_heads",)
    refused: ClassVar = dict.fromkeys(
        (
            "GPTNeoForQuestionAnswering",
            "GPTNeoForSequenceClassification",
            "GPTNeoForTokenClassification",
        ),
        "the original has no head but that of a language model",
    )
    pads = False

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys, which only its own configs have beside activation_function.

        The original's have that key too, but its code looks for activation_fn, without which it
        computes gelu. Raises ConfigError for an activation that transformers lacks.
        """
        known = keys_of(self.model_type)
        others = {*known.original, LAYERS}
        config = {key: value for key, value in original.items() if key not in others}
        config = same_keys(config, known.aliases)
        if not original.keys() & {"n_embd", "n_head", "n_layer", "n_ctx", "n_vocab"}:
            return config
        activation = original.get("activation_fn", "gelu")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ConfigError(
                f"activation_fn = {shown(activation)}: transformers has none of these but "
                f"{', '.join(ACTIVATIONS)}"
            )
        config["activation_function"] = ACTIVATIONS[activation]
        return {"window_size": WINDOW, **config}

    def assume(self, config: Config, variables: Variables) -> Config:
        return {"activation_function": "gelu_new", "window_size": WINDOW}

    def check(self, config: Config) -> None:
        check_heads(config, HIDDEN, "num_heads")
        if LAYERS in config:
            raise ConfigError(f"{LAYERS}: follows from attention_types, which --set takes")
        if "attention_types" not in config:
            return
        groups = groups_of(config["attention_types"])
        others = {kind for kinds, _ in groups for kind in kinds} - {"global", "local"}
        if others:
            raise ConfigError(
                f"attention_types: {', '.join(sorted(others))}: transformers' GPT-Neo has global "
                "and local attention alone"
            )
        layers = sum(len(kinds) * times for kinds, times in groups)
        if layers != config["num_layers"]:
            raise ConfigError(
                f"attention_types = {shown(config['attention_types'])} are of {layers} layers, the "
                f"checkpoint has {config['num_layers']}"
            )

    def remarks(self, config: Config) -> tuple[str, ...]:
        if config["activation_function"] != "gelu_new":
            return ()
        return (
            "activation_function = gelu_new, which the original computes unless its config has the "
            "key activation_fn; it never reads activation_function, which all of its configs have",
        )

    def lacking(self, config: Config) -> str:
        """The kinds of attention, which no variable tells."""
        if "attention_types" in config:
            return ""
        return (
            "config.json needs attention_types, which no shape tells\n"
            "Pass --config config.json, or "
            f"""--set 'attention_types=[[["global"], {config["num_layers"]}]]', with "local" for """
            "layers that look back over window_size words alone"
        )

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        length = "max_position_embeddings"
        return bpe_files(beside, ENCODER, MERGES, "GPT2Tokenizer", config, length)


FAMILY = GPTNeo()
