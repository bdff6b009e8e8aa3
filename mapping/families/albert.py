"""ALBERT (google-research/albert), v1 and v2: pre-training, classifier, SQuAD and TF-Hub.

Variable names are those of the original modeling.py, tensor names those of transformers'
modeling_albert.py. Layers share their weights in groups: the names tell the groups but not the
number of layers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError
from tfreader.files import read_small

from ..family import Beside, Config, Layout, SideFiles, Variables, same_keys
from ..rules.rule import Architecture, Rule, RuleSet, Tie
from . import _albert_garden, _bert4keras, _bert_for_tf2, _builders, _garden_settings
from ._bert_kin import BERT, ROOT, BertKin
from ._builders import dense, output_layer
from ._heads import with_head
from ._tokenizers import (
    is_sentencepiece,
    is_wordpiece,
    pieces_settings,
    sentencepieces,
    tokenizer_config,
    too_many,
)

INNER = BERT + r"/encoder/transformer/group_(?P<group>\d+)/inner_group_(?P<inner>\d+)"
TO_INNER = "albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}"
HIDDEN = "hidden_size"
NORM = "full_layer_layer_norm"
NUMBERED_NORM = re.compile(rf"(?P<scope>{INNER})/layer_normalization(?:_(?P<number>\d+))?/gamma")


def layer_norm(part: str, source: str, target: str, size: str) -> tuple[Rule, ...]:
    """Later copies of the code spell the scope layer_normalization, and number it; see `adapt`."""
    number = "" if source.startswith(INNER) else r"(?:_\d+)?"
    source = source.replace("LayerNorm", f"(?:LayerNorm|layer_normalization{number})")
    return _builders.layer_norm(part, source, target, size)


def embedding(name: str, rows: str) -> Rule:
    return Rule(
        (f"{BERT}/embeddings/{name}",),
        (f"albert.embeddings.{name}.weight",),
        shape=(rows, "embedding_size"),
        part="encoder",
    )


def inner(source: str, target: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    return dense("encoder", f"{INNER}/{source}", f"{TO_INNER}.{target}", inputs, outputs)


RULES = RuleSet(
    family="albert",
    name="albert",
    counts={"group": "num_hidden_groups", "inner": "inner_group_num"},
    rules=(
        embedding("word_embeddings", "vocab_size"),
        embedding("position_embeddings", "max_position_embeddings"),
        embedding("token_type_embeddings", "type_vocab_size"),
        *layer_norm(
            "encoder",
            f"{BERT}/embeddings/LayerNorm",
            "albert.embeddings.LayerNorm",
            "embedding_size",
        ),
        *dense(
            "encoder",
            f"{BERT}/encoder/embedding_hidden_mapping_in",
            "albert.encoder.embedding_hidden_mapping_in",
            "embedding_size",
            HIDDEN,
        ),
        *inner("attention_1/self/(?P<name>query|key|value)", "attention.{name}", HIDDEN, HIDDEN),
        *inner("attention_1/output/dense", "attention.dense", HIDDEN, HIDDEN),
        *layer_norm("encoder", f"{INNER}/LayerNorm", f"{TO_INNER}.attention.LayerNorm", HIDDEN),
        *inner("ffn_1/intermediate/dense", "ffn", HIDDEN, "intermediate_size"),
        *inner("ffn_1/intermediate/output/dense", "ffn_output", "intermediate_size", HIDDEN),
        *layer_norm("encoder", f"{INNER}/LayerNorm_1", f"{TO_INNER}.{NORM}", HIDDEN),
        *dense("pooler", f"{BERT}/pooler/dense", "albert.pooler", HIDDEN, HIDDEN),
        *dense(
            "mlm",
            f"{ROOT}cls/predictions/transform/dense",
            "predictions.dense",
            HIDDEN,
            "embedding_size",
        ),
        *layer_norm(
            "mlm",
            f"{ROOT}cls/predictions/transform/LayerNorm",
            "predictions.LayerNorm",
            "embedding_size",
        ),
        Rule(
            (f"{ROOT}cls/predictions/output_bias",),
            ("predictions.bias",),
            shape=("vocab_size",),
            part="mlm",
        ),
        *output_layer("sop", f"{ROOT}cls/seq_relationship/", "sop_classifier.classifier", 2),
        *output_layer("classifier", "", "classifier", "num_labels"),
        *output_layer("squad", "cls/squad/", "qa_outputs", "num_labels"),
    ),
    ties=(
        Tie("predictions.decoder.weight", "albert.embeddings.word_embeddings.weight", "mlm"),
        Tie("predictions.decoder.bias", "predictions.bias", "mlm"),
    ),
    architectures=(
        Architecture("AlbertForPreTraining", ("encoder", "pooler"), ("mlm", "sop")),
        Architecture("AlbertForMaskedLM", ("encoder",), ("mlm",)),
        Architecture("AlbertForSequenceClassification", ("encoder", "pooler"), ("classifier",)),
        Architecture("AlbertForTokenClassification", ("encoder",), ("classifier",)),
        Architecture("AlbertForMultipleChoice", ("encoder", "pooler"), ("classifier",)),
        Architecture("AlbertForQuestionAnswering", ("encoder",), ("squad",)),
        Architecture("AlbertModel", ("encoder", "pooler?"), strip="albert."),
    ),
)


class Original(Layout):
    name = "original"
    evidence = (
        rf"{BERT}/encoder/embedding_hidden_mapping_in/kernel",
        rf"{BERT}/encoder/transformer/group_\d+/.*",
    )

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Of numbered layer norms, the lower number of a layer's two is attention's."""
        numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
        for match in filter(None, map(NUMBERED_NORM.fullmatch, variables)):
            to_inner = TO_INNER.format(group=match["group"], inner=match["inner"])
            numbers[match["scope"], to_inner].add(int(match["number"] or 0))
        if all(found == {0, 1} for found in numbers.values()):
            return with_head(RULES, config, variables)
        inner = tuple(
            rule
            for (scope, to_inner), found in numbers.items()
            for number, target in zip(sorted(found), ("attention.LayerNorm", NORM), strict=False)
            for rule in layer_norm(
                "encoder",
                f"{scope}/layer_normalization" + (f"_{number}" if number else ""),
                f"{to_inner}.{target}",
                HIDDEN,
            )
        )
        kept = tuple(
            rule for rule in RULES.rules if not rule.sources[0].startswith(f"{INNER}/(?:LayerNorm")
        )
        return with_head(replace(RULES, rules=kept + inner), config, variables)


class Bert4Keras(Layout):
    name = "bert4keras"
    evidence = (_bert4keras.WORDS, _bert4keras.MAPPING + "/kernel", _bert4keras.SHARED + "/.*")

    def describe(self, config: Config, variables: Variables) -> Config:
        return {"num_hidden_groups": 1, "inner_group_num": 1}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        rules = _bert4keras.albert(config, variables)
        made = replace(RULES, rules=rules, remarks=(_bert4keras.REMARK,))
        return with_head(made, config, variables)


class BertForTF2(Layout):
    name = "bert-for-tf2"
    evidence = (
        _bert_for_tf2.WORDS,
        _bert_for_tf2.PROJECTOR + "/bias",
        _bert_for_tf2.SHARED + "/.*",
    )

    def describe(self, config: Config, variables: Variables) -> Config:
        return {"num_hidden_groups": 1, "inner_group_num": 1}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        rules, fills = _bert_for_tf2.ALBERT_RULES, _bert_for_tf2.ALBERT_FILLS
        return with_head(replace(RULES, rules=rules, fills=fills), config, variables)


class Albert(BertKin):
    model_type = "albert"
    layouts = (Original(), _albert_garden.Garden(RULES), Bert4Keras(), BertForTF2())
    config_files = ("albert_config.json",)
    pooler = "albert.pooler"
    output_weight = "predictions.decoder.weight"
    defaults: ClassVar = {
        "bos_token_id": 2,
        "eos_token_id": 3,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    labels: ClassVar = {"AlbertForMultipleChoice": 1}
    needs = ("num_attention_heads", "num_hidden_layers")

    def read(self, text: str) -> Mapping[str, Any] | None:
        """From a params.yaml, as the Model Garden's trainer writes it."""
        return _garden_settings.read_params(text)

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config from albert_config.json: both spell their keys alike."""
        if "hidden_size" in original and "embedding_size" not in original:
            raise ConfigError(
                "no embedding_size, which every config of an ALBERT has: is it BERT's?"
            )
        return same_keys(original)

    def assume(self, config: Config, variables: Variables) -> Config:
        return {"hidden_act": "gelu_new"}

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """The sentencepiece model (the release's: 30k-clean.model); Chinese ones have words."""
        names = ("spiece.model", "30k-clean.model", "vocab.txt")
        path, found = beside.find_vocabulary(
            names,
            ("*.model", "*vocab*.txt", "*.vocab"),
            lambda contents: is_sentencepiece(contents) or is_wordpiece(contents),
        )
        if path is None:
            return SideFiles({}, found)
        if path.suffix in (".txt", ".vocab"):
            return super().side_files(checkpoint, beside, config)
        contents = read_small(path)
        pieces = sentencepieces(path, contents)
        settings, said = pieces_settings(path, pieces, config)
        length = config["max_position_embeddings"]
        files = tokenizer_config("AlbertTokenizer", **settings, model_max_length=length)
        notes = (*found, said, *too_many(path, len(pieces), "pieces", config["vocab_size"]))
        return SideFiles({"spiece.model": contents, **files}, notes)


FAMILY = Albert()
