"""BigBird-Pegasus (google-research/bigbird): checkpoints of summarization.

Variable names are those of the original core/modeling.py, core/encoder.py and core/decoder.py,
tensor names those of transformers' modeling_bigbird_pegasus.py, which calls the norm behind each
stack `layernorm_embedding`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfreader.errors import PlanError

from ..family import Config, Layout, Variables
from ..rules.rule import Rule, RuleSet
from ._big_bird_kin import (
    ENCODER_NORM,
    RELEASED,
    SCOPE,
    SPARSE,
    attention_remarks,
    check_attention,
    from_flags,
    gelu_remarks,
    lacking_blocks,
    scope_of,
)
from ._builders import dense, layer_norm
from ._pegasus_kin import HEADS, LARGE, LARGE_HEADS, SIZE, PegasusKin, rule_set, same_heads

PART = "model"
OF_ENCODER = {"query": "self.query", "key": "self.key", "value": "self.value", "output": "output"}
OF_DECODER = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


def attention(
    scope: str, joined: str, to: str, names: Mapping[str, str], bias: bool
) -> Iterator[Rule]:
    """Query, key and value with the norm before them, and what joins the heads."""
    for name in ("query", "key", "value"):
        yield from dense(PART, f"{scope}/{name}", f"{to}.{names[name]}", SIZE, SIZE, bias)
    yield from dense(PART, f"{joined}/dense", f"{to}.{names['output']}", SIZE, SIZE, bias)
    yield from layer_norm(PART, f"{scope}/LayerNorm", f"{to}_layer_norm", SIZE)


def stack(scope: str, name: str, group: str, bias: bool) -> Iterator[Rule]:
    """The rules for the encoder or the decoder, whose layers look at the encoder, too."""
    layer, to = rf"{scope}{name}/layer_(?P<{group}>\d+)", f"model.{name}.layers.{{{group}}}"
    inner, wide = f"{layer}/attention", f"{name}_ffn_dim"
    is_decoder = name == "decoder"
    names = OF_DECODER if is_decoder else OF_ENCODER
    yield from attention(f"{inner}/self", f"{inner}/output", f"{to}.self_attn", names, bias)
    if is_decoder:
        crossing = f"{inner}/encdec", f"{inner}/encdec_output", f"{to}.encoder_attn"
        yield from attention(*crossing, names, bias)
    yield from layer_norm(PART, f"{layer}/intermediate/LayerNorm", f"{to}.final_layer_norm", SIZE)
    yield from dense(PART, f"{layer}/intermediate/dense", f"{to}.fc1", SIZE, wide)
    yield from dense(PART, f"{layer}/output/dense", f"{to}.fc2", wide, SIZE)
    last = f"model.{name}.layernorm_embedding"
    yield from layer_norm(PART, f"{scope}{name}/LayerNorm", last, SIZE)


class Original(Layout):
    name = "original"
    evidence = (
        f"{SCOPE}embeddings/word_embeddings",
        ENCODER_NORM,
        f"{SCOPE}(?:encoder|decoder)/layer_\\d+/attention/encdec/query/kernel",
    )
    absent = (f"{SCOPE}embeddings/LayerNorm/.*",)  # of BERT's kin

    def describe(self, config: Config, variables: Variables) -> Config:
        """One number of heads for both stacks; biases in all of attention or in none."""
        has_bias = any(name.endswith("/attention/self/query/bias") for name in variables)
        return {"use_bias": has_bias, **same_heads(config)}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Raises PlanError for models that no class of transformers is."""
        scope = scope_of(variables, "pegasus")
        for regex, reason in (
            (
                r"encoder/layer_\d+/attention/encdec/.*",
                "couple_encoder_decoder: one stack is both its encoder and its decoder, where "
                "transformers' BigBird-Pegasus has two",
            ),
            (
                r"(?:encoder|decoder)/layer_\d+/attention/output/LayerNorm/.*",
                "norm_type = postnorm: its layer norms come behind the layers' parts, not before "
                "them as in transformers' BigBird-Pegasus",
            ),
        ):
            if other := next(filter(re.compile(scope + regex).fullmatch, variables), None):
                raise PlanError(f"{other}: {reason}")
        bias = self.describe(config, variables)["use_bias"]
        positions = (
            Rule(
                (f"{scope}embeddings/position_embeddings",),
                (f"model.{name}.embed_positions.weight",),
                shape=("max_position_embeddings", SIZE),
            )
            for name in ("encoder", "decoder")
        )
        rules = (
            Rule(
                (f"{scope}embeddings/word_embeddings",),
                ("model.shared.weight",),
                shape=("vocab_size", SIZE),
            ),
            *positions,
            *stack(scope, "encoder", "layer", bias),
            *stack(scope, "decoder", "block", bias),
        )
        return rule_set("bigbird_pegasus", "BigBirdPegasus", rules)


class BigBirdPegasus(PegasusKin):
    model_type = "bigbird_pegasus"
    layouts = (Original(),)
    aliases = ("bigbird-pegasus",)
    config_files = ("summarization.config", "config.json")
    vocabularies = ("spiece.model", "pegasus.model")
    # Its vocabulary has all tokens of its own, where PEGASUS' begins behind special ones.
    tokenizer: ClassVar = {"offset": 0, "mask_token": None, "mask_token_sent": None}
    defaults: ClassVar = {
        "bos_token_id": 2,
        "decoder_start_token_id": 2,
        "eos_token_id": 1,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    refused: ClassVar = {
        "BigBirdPegasusForCausalLM": "the original's decoder looks at an encoder",
        "BigBirdPegasusForSequenceClassification": "the original's code has no such head",
        "BigBirdPegasusForQuestionAnswering": "the original's code has no such head",
    }

    def translate(self, original: Mapping[str, Any]) -> Config:
        return from_flags(self.model_type, original)

    def assume(self, config: Config, variables: Variables) -> Config:
        """What the original's scripts say, also of heads and blocks for the released size."""
        found: Config = {"activation_function": "relu", "scale_embedding": True}
        found["attention_type"] = SPARSE
        if config[SIZE] == LARGE:
            found |= {**dict.fromkeys(HEADS, LARGE_HEADS), **RELEASED}
        return found

    def check(self, config: Config) -> None:
        super().check(config)
        check_attention(config)

    def lacking(self, config: Config) -> str:
        return lacking_blocks(config)

    def remarks(self, config: Config) -> tuple[str, ...]:
        return (
            *attention_remarks(config, "0.022 in the logits"),
            *gelu_remarks("activation_function", config),
            "layer norms have epsilon 1e-12 in the original, 1e-5 in transformers' class, with no "
            "key for it (measured: 3e-4 in the outputs)",
        )


FAMILY = BigBirdPegasus()
