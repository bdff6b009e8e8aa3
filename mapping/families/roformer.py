"""RoFormer (ZhuiyiTechnology/roformer), as its authors' bert4keras saves it.

Variable names are those of bert4keras' models.py: of `save_weights_as_checkpoint`, which are BERT's
without positions, and of Keras' `save_weights`; tensor names and shapes those of transformers'
modeling_roformer.py.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError, PlanError

from ..config_keys import keys_of
from ..family import Beside, Config, Layout, SideFiles, Told, Variables, same_keys
from ..left_out import left_out
from ..rules.rule import Architecture, Drop, Fill, Rule, RuleSet, Tie
from . import _bert4keras, _gelu
from ._bert_kin import BertKin
from ._builders import dense, layer_norm
from ._encoder import HIDDEN, embeddings, original_layers
from ._heads import with_head
from ._roformer import NAMES, NORM, OTHERS, PROJECTION, SEGMENTS, WORDS, is_of_roformer
from ._tokenizers import tokenizer_config, words_of

EMBEDDING = "embedding_size"
PROJECTED = "roformer.embeddings_project"
TRANSFORM, TO_TRANSFORM = "cls/predictions/transform", "cls.predictions.transform"
DECODED = "cls.predictions.decoder"
DECODER = "RoFormerForCausalLM"
USUAL_POSITIONS = 512  # bert4keras' own, where its config says nothing
NO_CLASS = "transformers' RoFormer has no pooler and no next-sentence head"
POSITIONS = Fill(
    "roformer.encoder.embed_positions.weight",
    ("max_position_embeddings", "hidden_size/num_attention_heads"),
    "sinusoids",
    "the angles of the rotations, which the original computes each time",
    "encoder",
)
NO_SEGMENTS = Fill(
    "roformer.embeddings.token_type_embeddings.weight",
    (1, EMBEDDING),
    "zeros",
    "there are no segments, so segment_vocab_size 0 is assumed (with shared_segment_embeddings, "
    "which nothing here tells, they would be rows of the words)",
    "encoder",
)
NO_POSITIONS = (
    "taken for RoFormer, as nothing but a table of positions is missing to make it a BERT: nothing "
    "tells it from a BERT that lost its table, or from NEZHA by bert4keras, for which the result "
    "would be wrong"
)
ENCODER = (
    "an encoder is assumed: models built with application='lm' have the same variables, and "
    f"--architecture {DECODER} converts them; so have those with 'unilm', which hide later words "
    "of a second segment from earlier ones, as no class of transformers does"
)
PADDING = (
    "the original never looks at padding (id 0); transformers needs the tokenizer's attention_mask "
    "for that"
)
ONE_LAYER = (
    "bert4keras' examples put one on the first token: --architecture "
    "RoFormerForTokenClassification takes it, of whose logits those of a text's first token are "
    "the original's"
)
LABELS = (
    "taken for labels of tokens; of a head on the first token, as bert4keras' examples have it for "
    "texts, see each first token's"
)
# Activations of bert4keras by the names that transformers has for them.
ACTIVATIONS = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new", "swish": "silu"}
CHINESE = re.compile("[\u4e00-\u9fff]{2,}")
_OWN_SIZE = re.compile(
    r"bert/encoder/layer_\d+/attention/self/(?:query|key|value)/kernel|.*/[qkv]_dense/kernel\b.*"
)


RULES = (
    *embeddings("roformer.embeddings", EMBEDDING, WORDS, "", SEGMENTS, NORM),
    *dense("encoder", PROJECTION, PROJECTED, EMBEDDING, HIDDEN),
    *original_layers("bert/encoder", "roformer.encoder"),
    *dense("mlm", f"{TRANSFORM}/dense", f"{TO_TRANSFORM}.dense", HIDDEN, EMBEDDING),
    *layer_norm("mlm", f"{TRANSFORM}/LayerNorm", f"{TO_TRANSFORM}.LayerNorm", EMBEDDING),
    Rule(
        ("cls/predictions/output_bias",),
        ("cls.predictions.bias",),
        shape=("vocab_size",),
        part="mlm",
    ),
)


class OfBert4Keras(Layout):
    """What both spellings share; `words`, `segments`, `norm`, `unused` are regexes of variables.

    `norm` is a layer's, `unused` what no class has.
    """

    words: ClassVar[str]
    segments: ClassVar[str]
    norm: ClassVar[str]
    unused: ClassVar[tuple[str, ...]]
    remarks: ClassVar[tuple[str, ...]] = (PADDING,)

    @abstractmethod
    def all_rules(self, variables: Variables) -> tuple[Rule, ...]:
        """The rules for a model that has segments and a projection of its embeddings."""

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        if "max_position_embeddings" in config:
            return Told()
        note = (
            f"max_position_embeddings = {USUAL_POSITIONS}: the original's, where its config says "
            "nothing; rotations have no limit, so that any --set max_position_embeddings=N will do"
        )
        return Told({"max_position_embeddings": USUAL_POSITIONS}, (note,))

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Raises PlanError for heads of another size than transformers' class has."""
        for name, info in variables.items():
            if _OWN_SIZE.fullmatch(name) and len(set(info.shape)) == 2:
                raise PlanError(
                    f"{name} {[*info.shape]}: heads of another size than hidden_size / "
                    "num_attention_heads (attention_key_size, attention_head_size), which no class "
                    "of transformers has"
                )
        gone: tuple[str, ...] = ()
        has_segments = not variables or _find(self.segments, variables) is not None
        if not has_segments:
            gone += (NO_SEGMENTS.target,)
        if variables and _size(self.words, variables) == _size(self.norm, variables):
            gone += (f"{PROJECTED}.weight", f"{PROJECTED}.bias")
        unused = [regex for regex in self.unused if _find(regex, variables)]
        made = RuleSet(
            family="roformer",
            name="roformer",
            counts={"layer": "num_hidden_layers"},
            rules=tuple(r for r in self.all_rules(variables) if r.targets[0] not in gone),
            drops=tuple(Drop(regex, NO_CLASS) for regex in self.unused),
            ties=(
                Tie(f"{DECODED}.weight", "roformer.embeddings.word_embeddings.weight", "mlm"),
                Tie(f"{DECODED}.bias", "cls.predictions.bias", "mlm"),
            ),
            fills=(POSITIONS,) if has_segments else (POSITIONS, NO_SEGMENTS),
            architectures=(
                Architecture("RoFormerForMaskedLM", ("encoder",), ("mlm",)),
                Architecture(DECODER, ("encoder",), ("mlm",)),
                Architecture("RoFormerForTokenClassification", ("encoder",), ("classifier",)),
                Architecture("RoFormerModel", ("encoder",), strip="roformer."),
            ),
            remarks=(*self.remarks, *([f"left out: {NO_CLASS}"] if unused else [])),
            config={} if has_segments else {"type_vocab_size": 1},
        )
        if unused:  # a head may be on the pooler
            return made
        found = with_head(made, config, variables)
        return found if found is made else replace(found, remarks=(*found.remarks, LABELS))

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        if kind.name != DECODER:
            return Told(notes=(ENCODER,))
        return Told({} if "is_decoder" in asked else {"is_decoder": True})


def _find(regex: str, variables: Variables) -> TensorInfo | None:
    pattern = re.compile(regex)
    return next((info for name, info in variables.items() if pattern.fullmatch(name)), None)


def _size(regex: str, variables: Variables) -> int | None:
    """The last dimension of the first variable that matches."""
    info = _find(regex, variables)
    return info.shape[-1] if info is not None and info.shape else None


class AsCheckpoint(OfBert4Keras):
    name = "original"
    evidence = (*NAMES, f"{NORM}/gamma")
    absent = OTHERS
    words, segments = WORDS, SEGMENTS
    norm = r"bert/encoder/layer_\d+/output/LayerNorm/gamma"
    unused = (r"bert/pooler/dense/.*", r"cls/seq_relationship/.*")
    remarks = (NO_POSITIONS, PADDING)

    def told_by(self, names: Sequence[str], trained: bool = False) -> tuple[str, ...] | None:
        return super().told_by(names) if is_of_roformer(names, trained) else None

    def all_rules(self, variables: Variables) -> tuple[Rule, ...]:
        return RULES


class Keras(OfBert4Keras):
    name = "keras"
    evidence = (
        _bert4keras.WORDS,
        _bert4keras.NORM + "/gamma",
        _bert4keras.NUMBERED + "/.*",
    )
    absent = (_bert4keras.POSITIONS, _bert4keras.DISTANCES)
    words, segments = _bert4keras.WORDS, _bert4keras.SEGMENTS
    norm = _bert4keras.named(r"Transformer-\d+-FeedForward-Norm") + "/gamma"
    unused = (_bert4keras.named("Pooler-Dense") + "/.*", _bert4keras.named("NSP-Proba") + "/.*")

    def describe(self, config: Config, variables: Variables) -> Config:
        return {"num_hidden_layers": _bert4keras.layers(variables)}

    def all_rules(self, variables: Variables) -> tuple[Rule, ...]:
        return _bert4keras.roformer(variables)


class Second(Layout):
    """RoFormerV2, which no class of transformers is for."""

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Raises PlanError for any variables: there are no rules for them."""
        if not variables:
            return RuleSet((), family="roformer", name="roformer")
        raise PlanError(str(left_out("roformer-v2")))


class SecondAsCheckpoint(Second):
    name = "RoFormerV2"
    evidence = NAMES
    absent = (*OTHERS, r".*/LayerNorm/.*")

    def told_by(self, names: Sequence[str], trained: bool = False) -> tuple[str, ...] | None:
        return super().told_by(names) if is_of_roformer(names, trained) else None


class SecondKeras(Second):
    name = "RoFormerV2 keras"
    evidence = (_bert4keras.WORDS, _bert4keras.NUMBERED + "/.*")
    absent = (_bert4keras.POSITIONS, _bert4keras.DISTANCES, _bert4keras.NORM + "/.*")


class RoFormer(BertKin):
    model_type = "roformer"
    layouts = (AsCheckpoint(), Keras(), SecondAsCheckpoint(), SecondKeras())
    config_files = ("bert_config.json",)
    fixed: ClassVar = {"add_cross_attention": False, "rotary_value": False}
    output_weight = f"{DECODED}.weight"
    defaults: ClassVar = {
        "is_decoder": False,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "rotary_value": False,
        "tie_word_embeddings": True,
    }
    needs = ("num_attention_heads",)
    refused: ClassVar = {
        "RoFormerForMultipleChoice": f"its head has two layers, {ONE_LAYER}",
        "RoFormerForQuestionAnswering": "bert4keras has no head for spans",
        "RoFormerForSequenceClassification": f"its head has two layers, {ONE_LAYER}",
    }

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys; an argument of bert4keras goes before the usual name of its key.

        What only its code reads, shapes tell too.
        """
        known = keys_of(self.model_type)
        others = {*known.aliases, *known.original}
        config = {key: value for key, value in original.items() if key not in others}
        config |= {
            key: original[alias] for alias, key in known.aliases.items() if alias in original
        }
        config = same_keys(config)
        if config.get("hidden_act") in ACTIVATIONS:
            config["hidden_act"] = ACTIVATIONS[config["hidden_act"]]
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        return {"hidden_act": "gelu"}

    def check(self, config: Config) -> None:
        super().check(config)
        is_decoder = config.get("architectures") == [DECODER]
        if config["is_decoder"] != is_decoder:
            raise ConfigError(
                f"is_decoder = {json.dumps(config['is_decoder'])}: hides later words from earlier "
                f"ones where it is true, which is for --architecture {DECODER}, and for it alone"
            )

    def remarks(self, config: Config) -> tuple[str, ...]:
        if config["hidden_act"] != "gelu":
            return ()
        return (_gelu.exact("hidden_act", "bert4keras", "models built after set_gelu('tanh')"),)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """The vocabulary of the first release has whole words, which its code finds with jieba."""
        made = super().side_files(checkpoint, beside, config)
        _, words = words_of(made.contents.get("vocab.txt", b""))
        if not any(map(CHINESE.fullmatch, words)):
            return made
        settings = json.loads(made.contents["tokenizer_config.json"])
        files = tokenizer_config(**settings | {"tokenizer_class": "RoFormerTokenizer"})
        return replace(made, contents={**made.contents, **files})


FAMILY = RoFormer()
