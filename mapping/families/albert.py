"""ALBERT (google-research/albert), v1 and v2: pre-training, classifier, SQuAD and TF-Hub.

Variable names are those of the original modeling.py, tensor names those of transformers'
modeling_albert.py. Layers share their weights in groups: the names tell the groups but not the
number of layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..family import Family, SideFiles
from ..rule import Architecture, Rule, RuleSet, Tie
from .bert import dense, head, remarks, translate

ROOT = "(?:module/)?"  # TF-Hub modules
BERT = ROOT + "bert"
INNER = BERT + r"/encoder/transformer/group_(?P<group>\d+)/inner_group_(?P<inner>\d+)"
TO_INNER = "albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}"
HIDDEN = "hidden_size"


def layer_norm(part: str, source: str, target: str, size: str) -> tuple[Rule, ...]:
    """Later copies of the code spell the scope layer_normalization."""
    scope = source.replace("LayerNorm", "(?:LayerNorm|layer_normalization)")
    return (
        Rule((f"{scope}/gamma",), (f"{target}.weight",), shape=(size,), part=part),
        Rule((f"{scope}/beta",), (f"{target}.bias",), shape=(size,), part=part),
    )


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
        *layer_norm("encoder", f"{INNER}/LayerNorm_1", f"{TO_INNER}.full_layer_layer_norm", HIDDEN),
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
        *head("sop", f"{ROOT}cls/seq_relationship/", "sop_classifier.classifier", 2),
        *head("classifier", "", "classifier", "num_labels"),
        *head("squad", "cls/squad/", "qa_outputs", "num_labels"),
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


def side_files(folder: Path, config: Mapping[str, Any]) -> SideFiles:
    """The sentencepiece model, which the release calls 30k-clean.model."""
    names = ("spiece.model", "30k-clean.model")
    model = next((folder / name for name in names if (folder / name).is_file()), None)
    if model is None:
        return SideFiles({}, (f"no {' or '.join(names)} in {folder}: no tokenizer written",))
    tokenizer = {
        "tokenizer_class": "AlbertTokenizer",
        "do_lower_case": True,
        "model_max_length": config["max_position_embeddings"],
    }
    text = json.dumps(tokenizer, indent=2) + "\n"
    return SideFiles(
        {"spiece.model": model.read_bytes(), "tokenizer_config.json": text.encode()},
        ("tokenizer: do_lower_case = true, as the released models have it",),
    )


FAMILY = Family(
    model_type="albert",
    rules=RULES,
    evidence=(rf"{BERT}/encoder/embedding_hidden_mapping_in/kernel",),
    config_files=("albert_config.json",),
    translate=translate,
    defaults={
        "bos_token_id": 2,
        "eos_token_id": 3,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    },
    needs=("num_attention_heads", "num_hidden_layers"),
    side_files=side_files,
    remarks=remarks,
)
