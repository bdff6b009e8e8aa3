"""BERT (google-research/bert): pre-training, encoder-only, classifier and SQuAD checkpoints.

Variable names are those of the original modeling.py, run_pretraining.py, run_classifier.py and
run_squad.py; tensor names and shapes those of transformers' modeling_bert.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ..family import Config, Layout, Variables
from ..rules.rule import Architecture, RuleSet, Tie
from . import _bert4keras, _bert_for_tf2, _bert_garden, _garden_settings, _shared_layer
from ._bert_kin import BERT, MOBILE, ROOT, TABLES, BertKin
from ._builders import dense, output_layer
from ._encoder import HIDDEN, original_embeddings, original_layers, original_predictions
from ._heads import with_head
from ._roformer import is_of_roformer

LAYER = BERT + r"/encoder/layer_(?P<layer>\d+)"

RULES = RuleSet(
    family="bert",
    name="bert",
    counts={"layer": "num_hidden_layers"},
    rules=(
        *original_embeddings(f"{BERT}/embeddings", "bert.embeddings"),
        *original_layers(f"{BERT}/encoder", "bert.encoder"),
        *dense("pooler", f"{BERT}/pooler/dense", "bert.pooler.dense", HIDDEN, HIDDEN),
        *original_predictions(ROOT, "mlm"),
        *output_layer("nsp", ROOT + "cls/seq_relationship/", "cls.seq_relationship", 2),
        *output_layer("classifier", "", "classifier", "num_labels"),
        *output_layer("squad", "cls/squad/", "qa_outputs", "num_labels"),
    ),
    ties=(
        Tie("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight", "mlm"),
        Tie("cls.predictions.decoder.bias", "cls.predictions.bias", "mlm"),
    ),
    architectures=(
        Architecture("BertForPreTraining", ("encoder", "pooler"), ("mlm", "nsp")),
        Architecture("BertForMaskedLM", ("encoder",), ("mlm",)),
        Architecture("BertForNextSentencePrediction", ("encoder", "pooler"), ("nsp",)),
        Architecture("BertForSequenceClassification", ("encoder", "pooler"), ("classifier",)),
        Architecture("BertForTokenClassification", ("encoder",), ("classifier",)),
        Architecture("BertForMultipleChoice", ("encoder", "pooler"), ("classifier",)),
        Architecture("BertForQuestionAnswering", ("encoder",), ("squad",)),
        Architecture("BertModel", ("encoder", "pooler?"), strip="bert."),
    ),
)


class Original(Layout):
    name = "original"
    evidence = (rf"{BERT}/embeddings/word_embeddings", rf"{BERT}/encoder/layer_\d+/attention/.*")
    absent = (
        rf"{BERT}/encoder/embedding_hidden_mapping_in/.*",  # of RemBERT, RoFormer
        rf"{BERT}/encoder/LayerNorm/.*",  # of BigBird
        rf"{BERT}/(?:en|de)coder/layer_\d+/attention/encdec/.*",  # of BERT-Generation
        TABLES,
        MOBILE,
    )

    def told_by(self, names: Sequence[str], trained: bool = False) -> tuple[str, ...] | None:
        return None if is_of_roformer(names, trained) else super().told_by(names)

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        return with_head(RULES, config, variables)


class SharedLayer(Layout):
    """One layer that stands for all; see _shared_layer.py."""

    name = "layer_shared"
    evidence = (rf"{BERT}/embeddings/word_embeddings", rf"{BERT}/encoder/layer_shared/.*")

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        numbered, shared = LAYER, f"{BERT}/encoder/layer_shared"
        rules = _shared_layer.for_all_layers(RULES.rules, numbered, shared, config, variables)
        made = replace(RULES, rules=rules, remarks=(_shared_layer.REMARK,))
        return with_head(made, config, variables)


class Bert4Keras(Layout):
    name = "bert4keras"
    evidence = (
        _bert4keras.WORDS,
        _bert4keras.POSITIONS,
        _bert4keras.NORM + "/gamma",
        _bert4keras.NUMBERED + "/.*",
    )
    absent = (_bert4keras.MAPPING + "/.*",)

    def describe(self, config: Config, variables: Variables) -> Config:
        return {"num_hidden_layers": _bert4keras.layers(variables)}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        rules = _bert4keras.bert(config, variables)
        made = replace(RULES, rules=rules, remarks=(_bert4keras.REMARK,))
        return with_head(made, config, variables)


class BertForTF2(Layout):
    name = "bert-for-tf2"
    evidence = (_bert_for_tf2.WORDS, _bert_for_tf2.NUMBERED + "/.*")

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        made = replace(RULES, rules=_bert_for_tf2.BERT_RULES, fills=_bert_for_tf2.BERT_FILLS)
        return with_head(made, config, variables)


class BertForTF2Shared(Layout):
    name = "bert-for-tf2 layer_shared"
    evidence = (_bert_for_tf2.WORDS, _bert_for_tf2.SHARED + "/.*")
    absent = (_bert_for_tf2.PROJECTOR + "/bias",)  # Google's ALBERT

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        numbered, shared = _bert_for_tf2.NUMBERED, _bert_for_tf2.SHARED
        rules = _shared_layer.for_all_layers(
            _bert_for_tf2.BERT_RULES, numbered, shared, config, variables
        )
        made = replace(
            RULES,
            rules=rules,
            fills=_bert_for_tf2.BERT_FILLS,
            remarks=(_shared_layer.REMARK,),
        )
        return with_head(made, config, variables)


class Bert(BertKin):
    model_type = "bert"
    layouts = (
        Original(),
        _bert_garden.Garden(RULES),
        SharedLayer(),
        Bert4Keras(),
        BertForTF2(),
        BertForTF2Shared(),
    )
    config_files = ("bert_config.json",)
    pooler = "bert.pooler.dense"
    output_weight = "cls.predictions.decoder.weight"
    defaults: ClassVar = {
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    labels: ClassVar = {"BertForMultipleChoice": 1}
    needs = ("num_attention_heads",)

    def read(self, text: str) -> Mapping[str, Any] | None:
        """From a params.yaml, as the Model Garden's trainer writes it."""
        return _garden_settings.read_params(text)

    def assume(self, config: Config, variables: Variables) -> Config:
        """The Garden's gelu is the tanh form."""
        return {"hidden_act": "gelu_new" if _bert_garden.layers(variables) else "gelu"}


FAMILY = Bert()
