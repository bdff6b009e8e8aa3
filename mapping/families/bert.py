"""BERT (google-research/bert): pre-training, encoder-only, classifier and SQuAD checkpoints.

Variable names are those of the original modeling.py, run_pretraining.py, run_classifier.py and
run_squad.py; tensor names and shapes those of transformers' modeling_bert.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfreader.checkpoint import TensorInfo
from tfreader.errors import ConfigError

from ..family import Config, Family, SideFiles, same_keys
from ..ops import Transpose
from ..rule import Architecture, Rule, RuleSet, Tie
from . import _bert_tf2

LAYER = r"bert/encoder/layer_(?P<layer>\d+)"
TO_LAYER = "bert.encoder.layer.{layer}"


def dense(part: str, source: str, target: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    """A fully connected layer: TensorFlow's kernel is [in, out], PyTorch's weight [out, in]."""
    return (
        Rule(
            (f"{source}/kernel",),
            (f"{target}.weight",),
            (Transpose(),),
            shape=(inputs, outputs),
            part=part,
        ),
        Rule((f"{source}/bias",), (f"{target}.bias",), shape=(outputs,), part=part),
    )


def layer_norm(part: str, source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule((f"{source}/gamma",), (f"{target}.weight",), shape=("hidden_size",), part=part),
        Rule((f"{source}/beta",), (f"{target}.bias",), shape=("hidden_size",), part=part),
    )


def embedding(name: str, rows: str) -> Rule:
    return Rule(
        (f"bert/embeddings/{name}",),
        (f"bert.embeddings.{name}.weight",),
        shape=(rows, "hidden_size"),
        part="encoder",
    )


def head(part: str, source: str, target: str, labels: str | int) -> tuple[Rule, ...]:
    """An output layer: the original stores it as [out, in], so there is nothing to transpose."""
    return (
        Rule(
            (f"{source}output_weights",),
            (f"{target}.weight",),
            shape=(labels, "hidden_size"),
            part=part,
        ),
        Rule((f"{source}output_bias",), (f"{target}.bias",), shape=(labels,), part=part),
    )


RULES = RuleSet(
    family="bert",
    name="bert",
    counts={"layer": "num_hidden_layers"},
    rules=(
        embedding("word_embeddings", "vocab_size"),
        embedding("position_embeddings", "max_position_embeddings"),
        embedding("token_type_embeddings", "type_vocab_size"),
        *layer_norm("encoder", "bert/embeddings/LayerNorm", "bert.embeddings.LayerNorm"),
        *dense(
            "encoder",
            LAYER + "/attention/self/(?P<name>query|key|value)",
            TO_LAYER + ".attention.self.{name}",
            "hidden_size",
            "hidden_size",
        ),
        *dense(
            "encoder",
            LAYER + "/attention/output/dense",
            TO_LAYER + ".attention.output.dense",
            "hidden_size",
            "hidden_size",
        ),
        *layer_norm(
            "encoder",
            LAYER + "/attention/output/LayerNorm",
            TO_LAYER + ".attention.output.LayerNorm",
        ),
        *dense(
            "encoder",
            LAYER + "/intermediate/dense",
            TO_LAYER + ".intermediate.dense",
            "hidden_size",
            "intermediate_size",
        ),
        *dense(
            "encoder",
            LAYER + "/output/dense",
            TO_LAYER + ".output.dense",
            "intermediate_size",
            "hidden_size",
        ),
        *layer_norm("encoder", LAYER + "/output/LayerNorm", TO_LAYER + ".output.LayerNorm"),
        *dense("pooler", "bert/pooler/dense", "bert.pooler.dense", "hidden_size", "hidden_size"),
        *dense(
            "mlm",
            "cls/predictions/transform/dense",
            "cls.predictions.transform.dense",
            "hidden_size",
            "hidden_size",
        ),
        *layer_norm(
            "mlm", "cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm"
        ),
        Rule(
            ("cls/predictions/output_bias",),
            ("cls.predictions.bias",),
            shape=("vocab_size",),
            part="mlm",
        ),
        *head("nsp", "cls/seq_relationship/", "cls.seq_relationship", 2),
        *head("classifier", "", "classifier", "num_labels"),
        *head("squad", "cls/squad/", "qa_outputs", "num_labels"),
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


def translate(original: Mapping[str, Any]) -> Config:
    """Hugging Face's config from bert_config.json: both spell their keys alike."""
    config = same_keys(original)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if isinstance(hidden, int) and isinstance(heads, int) and (heads < 1 or hidden % heads):
        raise ConfigError(
            f"hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}"
        )
    return config


def side_files(folder: Path, config: Mapping[str, Any]) -> SideFiles:
    """vocab.txt and a tokenizer_config.json for it.

    The original release says nowhere in a file whether text is to be lower-cased; the vocabulary
    does: a cased one has words with capital letters.
    """
    vocabulary = folder / "vocab.txt"
    if not vocabulary.is_file():
        return SideFiles({}, (f"no vocab.txt in {folder}: no tokenizer written",))
    contents = vocabulary.read_bytes()
    words = contents.decode("utf-8", "replace").splitlines()
    cased = any(
        word != word.lower() for word in words if not (word.startswith("[") and word.endswith("]"))
    )
    tokenizer = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": not cased,
        "model_max_length": config["max_position_embeddings"],
    }
    notes = [
        f"tokenizer: do_lower_case = {str(not cased).lower()}, since vocab.txt has "
        + ("words with capital letters" if cased else "no word with a capital letter")
    ]
    if len(words) > config["vocab_size"]:
        notes.append(
            f"vocab.txt has {len(words)} words, the model only {config['vocab_size']} rows: "
            "it may belong to another checkpoint"
        )
    text = json.dumps(tokenizer, indent=2) + "\n"
    return SideFiles({"vocab.txt": contents, "tokenizer_config.json": text.encode()}, tuple(notes))


def remarks(config: Mapping[str, Any]) -> tuple[str, ...]:
    if config.get("hidden_act") != "gelu":
        return ()
    return (
        "hidden_act = gelu as in the original config file; today's original code computes the "
        "tanh form, which --set hidden_act=gelu_new matches",
    )


def describe(_: Config, variables: Mapping[str, TensorInfo]) -> Config:
    return _bert_tf2.describe(variables)


def adapt(rules: RuleSet, _: Config, variables: Mapping[str, TensorInfo]) -> RuleSet:
    """Other names for checkpoints of the Model Garden."""
    if not _bert_tf2.layers(variables):
        return rules
    return replace(rules, rules=_bert_tf2.rules(variables))


FAMILY = Family(
    model_type="bert",
    rules=RULES,
    evidence=(
        r"bert/embeddings/word_embeddings|.*/embeddings|(?:.*/)?masked_lm/embedding_table",
        r"bert/encoder/layer_\d+/attention/.*|.*/_attention_layer/_query_dense/kernel",
    ),
    describe=describe,
    adapt=adapt,
    config_files=("bert_config.json",),
    translate=translate,
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    },
    needs=("num_attention_heads",),
    side_files=side_files,
    remarks=remarks,
)
