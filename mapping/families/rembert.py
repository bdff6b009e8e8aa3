"""RemBERT (google-research): the encoder with its pooler.

Variable names are BERT's, with narrow embeddings that a layer of ALBERT's name widens. Google
published a checkpoint and no code, so what the heads of pre-training are made of is not known;
transformers' own converter left them out as well. Tensor names and shapes are those of
transformers' modeling_rembert.py.
"""

from __future__ import annotations

import re
from typing import ClassVar

from tfreader.checkpoint import Checkpoint

from ..family import Beside, Config, Layout, SideFiles, Variables
from ..rules.rule import Architecture, Drop, RuleSet
from . import _gelu
from ._bert_kin import BERT, ROOT, BertKin
from ._builders import dense, output_layer
from ._encoder import HIDDEN, original_embeddings, original_layers
from ._heads import with_head
from ._pieces import pieces_files

EMBEDDING = "input_embedding_size"
MAPPING = f"{BERT}/encoder/embedding_hidden_mapping_in"
# The output embeddings are wider than the input's, and not tied to them.
PRETRAINING = (
    rf"{ROOT}cls/(?:predictions|seq_relationship)/.*",
    r"(?:.*/)?output_embeddings?(?:/.*)?",
)
LEFT_OUT = re.compile("|".join(PRETRAINING))
UNKNOWN_HEAD = (
    "no public code tells what the head of RemBERT's pre-training is made of; transformers' own "
    "converter left it out too"
)

RULES = RuleSet(
    family="rembert",
    name="rembert",
    counts={"layer": "num_hidden_layers"},
    rules=(
        *original_embeddings(f"{BERT}/embeddings", "rembert.embeddings", EMBEDDING),
        *dense(
            "encoder", MAPPING, "rembert.encoder.embedding_hidden_mapping_in", EMBEDDING, HIDDEN
        ),
        *original_layers(f"{BERT}/encoder", "rembert.encoder"),
        *dense("pooler", f"{BERT}/pooler/dense", "rembert.pooler.dense", HIDDEN, HIDDEN),
        *output_layer("classifier", "", "classifier", "num_labels"),
        *output_layer("squad", "cls/squad/", "qa_outputs", "num_labels"),
    ),
    drops=tuple(Drop(source, f"of pre-training: {UNKNOWN_HEAD}") for source in PRETRAINING),
    architectures=(
        Architecture("RemBertModel", ("encoder", "pooler?"), strip="rembert."),
        Architecture("RemBertForSequenceClassification", ("encoder", "pooler"), ("classifier",)),
        Architecture("RemBertForTokenClassification", ("encoder",), ("classifier",)),
        Architecture("RemBertForMultipleChoice", ("encoder", "pooler"), ("classifier",)),
        Architecture("RemBertForQuestionAnswering", ("encoder",), ("squad",)),
    ),
)


class Original(Layout):
    name = "original"
    # Numbered layers and positions: ALBERT has groups in place of those, RoFormer none of these.
    evidence = (
        rf"{BERT}/embeddings/word_embeddings",
        rf"{BERT}/embeddings/position_embeddings",
        rf"{MAPPING}/kernel",
        rf"{BERT}/encoder/layer_\d+/attention/.*",
    )

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        known = Variables(
            {name: info for name, info in variables.items() if not LEFT_OUT.fullmatch(name)}
        )
        return with_head(RULES, config, known)


class RemBert(BertKin):
    model_type = "rembert"
    layouts = (Original(),)
    config_files = ("rembert_config.json",)
    pooler = "rembert.pooler.dense"
    defaults: ClassVar = {"layer_norm_eps": 1e-12, "pad_token_id": 0}
    labels: ClassVar = {"RemBertForMultipleChoice": 1}
    needs = ("num_attention_heads",)
    refused: ClassVar = {
        "RemBertForMaskedLM": UNKNOWN_HEAD,
        "RemBertForCausalLM": UNKNOWN_HEAD,
    }

    def assume(self, config: Config, variables: Variables) -> Config:
        return {"hidden_act": "gelu"}

    def remarks(self, config: Config) -> tuple[str, ...]:
        if config["hidden_act"] != "gelu":
            return ()
        return (
            "hidden_act = gelu, the exact one, as in transformers' own conversion: nothing to do "
            "to have its outputs. Nothing tells which of two gelus Google's code computes: the "
            f"other is --set hidden_act=gelu_new ({_gelu.STORY})",
        )

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        name = "sentencepiece.model"
        return pieces_files(beside, config, name, "RemBertTokenizer", has_letters=True)


FAMILY = RemBert()
