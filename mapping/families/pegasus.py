"""PEGASUS (google-research/pegasus): pre-training and fine-tuned summarizers.

Variable names are those of the original models/transformer.py and layers/, tensor names those of
transformers' modeling_pegasus.py. The original has no variables for positions and no biases in
attention; its sizes are in its code (params/).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfreader.errors import ConfigError

from ..config_keys import keys_of
from ..family import Beside, Config, Layout, Told, Variables, same_keys
from ..rules.ops import Pad, Slice
from ..rules.rule import Fill, Rule, RuleSet
from ..rules.schema import shown
from ._big_bird_kin import number_of
from ._builders import dense, layer_norm
from ._pegasus_kin import HEADS, LARGE, LARGE_HEADS, SIZE, PegasusKin, rule_set, same_heads

PART, ROWS, POSITIONS = "model", "vocab_size", "max_position_embeddings"
PROJECTIONS = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "output_proj": "out_proj",
}
ATTENTIONS = {"self_attention": "self_attn", "memory_attention": "encoder_attn"}
STACKS = {"encoder": ("layer", ["self_attention"]), "decoder": ("block", [*ATTENTIONS])}
LENGTHS = ("max_input_len", "max_target_len", "max_decode_len")
USUAL_LENGTH = 1024  # of transformers' class
# What no parameter of the original's changes; transformers' defaults are others.
OF_CODE = {"activation_function": "relu", "scale_embedding": True}

FIRST_ROW = (
    "model.shared.weight: its row 0, of padding, is set to zero: the decoder begins with zeros in "
    "the original, with that row in transformers; so the logit of token 0 is 0, which the original "
    "gives a value"
)


def stack(name: str) -> Iterator[Rule]:
    """The rules for the encoder or the decoder."""
    group, kinds = STACKS[name]
    layer, to = rf"{name}/layer_(?P<{group}>\d+)", f"model.{name}.layers.{{{group}}}"
    for kind in kinds:
        source, target = f"{layer}/{kind}", f"{to}.{ATTENTIONS[kind]}"
        for own, other in PROJECTIONS.items():
            yield from dense(PART, f"{source}/{own}", f"{target}.{other}", SIZE, SIZE, bias=False)
        yield from layer_norm(PART, f"{source}/LayerNorm", f"{target}_layer_norm", SIZE)
    inner, wide = f"{layer}/ffn", f"{name}_ffn_dim"
    yield from layer_norm(PART, f"{inner}/LayerNorm", f"{to}.final_layer_norm", SIZE)
    yield from dense(PART, f"{inner}/dense", f"{to}.fc1", SIZE, wide)
    yield from dense(PART, f"{inner}/dense_1", f"{to}.fc2", wide, SIZE)
    yield from layer_norm(PART, f"{name}/LayerNorm", f"model.{name}.layer_norm", SIZE)


def fills(variables: Variables) -> Iterator[Fill]:
    """Positions, and the biases of attention."""
    computed = (
        "no variable has them: computed as in the original, whose frequencies are 10000^(-i/(n-1)) "
        "where transformers' own table has i/n (up to 0.72 apart at d_model 1024)"
    )
    for name, (_, kinds) in STACKS.items():
        target = f"model.{name}.embed_positions.weight"
        yield Fill(target, (POSITIONS, SIZE), "timing_signal", computed)
        for i in range(number_of(variables, rf"{name}/layer_(\d+)/")):
            for kind in kinds:
                to = f"model.{name}.layers.{i}.{ATTENTIONS[kind]}"
                for other in PROJECTIONS.values():
                    reason = "the original's attention has no biases"
                    yield Fill(f"{to}.{other}.bias", (SIZE,), "zeros", reason)


class Original(Layout):
    name = "original"
    evidence = (
        "embeddings/weights",
        r"encoder/layer_\d+/self_attention/q_proj/kernel",
        r"decoder/layer_\d+/memory_attention/q_proj/kernel",
    )

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        """How many positions to write, of which the original computes as many as a text has."""
        if POSITIONS in config:
            return Told()
        said = (
            f"{POSITIONS} = {USUAL_LENGTH}: as many are written, where the original computes any "
            f"number; --set {POSITIONS}=N for other texts"
        )
        return Told({POSITIONS: USUAL_LENGTH}, (said,))

    def describe(self, config: Config, variables: Variables) -> Config:
        return same_heads(config)

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        words = Rule(
            ("embeddings/weights",),
            ("model.shared.weight",),
            (Slice(0, 1, ROWS), Pad(0, 1, ROWS)),
            (ROWS, SIZE),
        )
        rules = (words, *stack("encoder"), *stack("decoder"))
        return rule_set("pegasus", "Pegasus", rules, tuple(fills(variables)), FIRST_ROW)


class Pegasus(PegasusKin):
    model_type = "pegasus"
    layouts = (Original(),)
    aliases = ("google/pegasus-large",)
    config_files = ("config.json",)
    vocabularies = ("spiece.model", "c4.unigram.newline.10pct.96000.model")
    fixed: ClassVar = {"is_decoder": False, **OF_CODE}
    defaults: ClassVar = {
        **OF_CODE,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "forced_eos_token_id": 1,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    refused: ClassVar = {"PegasusForCausalLM": "the original's decoder looks at an encoder"}

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys, from what the original's code was told, or a config with them.

        Longer texts than it was told of need more positions, which it computes for any length.
        """
        keys = keys_of(self.model_type)
        kept = {key: value for key, value in original.items() if key not in keys.original}
        config = same_keys(kept, keys.aliases)
        lengths = [original[key] for key in LENGTHS if key in original]
        if wrong := next((value for value in lengths if type(value) is not int), None):
            raise ConfigError(f"{' or '.join(LENGTHS)} = {shown(wrong)}, expected a whole number")
        if max(lengths, default=0) > USUAL_LENGTH:
            config.setdefault(POSITIONS, max(lengths))
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        """The heads of the original's one size."""
        return dict.fromkeys(HEADS, LARGE_HEADS) if config[SIZE] == LARGE else {}

    def remarks(self, config: Config) -> tuple[str, ...]:
        return (
            "layer norms have epsilon 1e-12 in the original, 1e-5 in transformers' class, with no "
            "key for it (measured: 5e-5 in the logits)",
        )


FAMILY = Pegasus()
