"""BERT (google-research/bert): pre-training, encoder-only, classifier and SQuAD checkpoints.

Variable names are those of the original modeling.py, run_pretraining.py, run_classifier.py and
run_squad.py; tensor names and shapes those of transformers' modeling_bert.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError

from ..family import Beside, Config, Family, SideFiles, check_heads, same_keys
from ..ops import Transpose
from ..rule import Architecture, Rule, RuleSet, Tie
from . import _bert_tf2
from ._tokenizers import is_cased, none_found, tokenizer_config, too_many

ROOT = "(?:module/)?"  # TF-Hub modules
BERT = ROOT + "bert"
LAYER = BERT + r"/encoder/layer_(?P<layer>\d+)"
TO_LAYER = "bert.encoder.layer.{layer}"
SPECIAL_TOKEN = re.compile(r"\[.*\]|<.*>")
# The original's four, and the names that Hugging Face's code has for their kin.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "linear", "relu", "silu", "tanh")


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
    """Later copies of the code spell the scope layer_normalization, some with a number."""
    source = source.replace("LayerNorm", r"(?:LayerNorm|layer_normalization(?:_\d+)?)")
    return (
        Rule((f"{source}/gamma",), (f"{target}.weight",), shape=("hidden_size",), part=part),
        Rule((f"{source}/beta",), (f"{target}.bias",), shape=("hidden_size",), part=part),
    )


def embedding(name: str, rows: str) -> Rule:
    return Rule(
        (f"{BERT}/embeddings/{name}",),
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
        *layer_norm("encoder", f"{BERT}/embeddings/LayerNorm", "bert.embeddings.LayerNorm"),
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
        *dense("pooler", f"{BERT}/pooler/dense", "bert.pooler.dense", "hidden_size", "hidden_size"),
        *dense(
            "mlm",
            ROOT + "cls/predictions/transform/dense",
            "cls.predictions.transform.dense",
            "hidden_size",
            "hidden_size",
        ),
        *layer_norm(
            "mlm",
            ROOT + "cls/predictions/transform/LayerNorm",
            "cls.predictions.transform.LayerNorm",
        ),
        Rule(
            (ROOT + "cls/predictions/output_bias",),
            ("cls.predictions.bias",),
            shape=("vocab_size",),
            part="mlm",
        ),
        *head("nsp", ROOT + "cls/seq_relationship/", "cls.seq_relationship", 2),
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
    return same_keys(original)


def assume(*_: Any) -> Config:
    return {"hidden_act": "gelu"}


def check(config: Config) -> None:
    check_heads(config, "hidden_size", "num_attention_heads")
    if config["hidden_act"] not in ACTIVATIONS:
        raise ConfigError(
            f"hidden_act = {config['hidden_act']!r}, known are {', '.join(ACTIVATIONS)}"
        )
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"):
        if not isinstance(config.get(key, 0.0), int | float):
            raise ConfigError(f"{key} = {config[key]!r}, expected a number")
    labels, kinds = len(config.get("id2label", ())), config.get("architectures", ())
    if any(str(kind).endswith("MultipleChoice") for kind in kinds) and labels != 1:
        raise ConfigError(
            f"{kinds[0]} scores each choice with one row, the checkpoint's head has {labels}"
        )


def side_files(checkpoint: Checkpoint, beside: Beside, config: Mapping[str, Any]) -> SideFiles:
    """vocab.txt and a tokenizer_config.json for it.

    The original release says nowhere in a file whether text is to be lower-cased; the vocabulary
    does: a cased one has words with capital letters, beside special tokens like [CLS] and <S>.
    """
    path = beside.find("vocab.txt")
    if path is None:
        return none_found(beside, "vocab.txt")
    contents = path.read_bytes()
    words = contents.decode("utf-8", "replace").removesuffix("\n").split("\n")
    lower, told = config.get("do_lower_case"), "as the config says"
    if lower is None and "do_lower_case" in checkpoint:  # exported by the Garden
        lower, told = bool(checkpoint["do_lower_case"]), "as the module says"
    if lower is None:
        lower = not is_cased([word for word in words if not SPECIAL_TOKEN.fullmatch(word.strip())])
        told = f"since vocab.txt has {'few or no' if lower else 'many'} words with capital letters"
    said = f"tokenizer: do_lower_case = {json.dumps(lower)}, {told}; --set do_lower_case=VALUE"
    length = config["max_position_embeddings"]
    files = tokenizer_config("BertTokenizer", do_lower_case=lower, model_max_length=length)
    notes = (said, *too_many(path, len(words), "words", config["vocab_size"]))
    return SideFiles({"vocab.txt": contents, **files}, notes)


def remarks(config: Mapping[str, Any]) -> tuple[str, ...]:
    if config.get("hidden_act") != "gelu":
        return ()
    return (
        "hidden_act = gelu, in Hugging Face's models the erf form; today's original code computes "
        "the tanh form, which --set hidden_act=gelu_new matches",
    )


def describe(_: Config, variables: Mapping[str, TensorInfo]) -> Config:
    return _bert_tf2.describe(variables)


def adapt(rules: RuleSet, _: Config, variables: Mapping[str, TensorInfo]) -> RuleSet:
    """Other names for checkpoints of the Model Garden."""
    layers = _bert_tf2.layers(variables)
    if layers is None:
        return rules
    return replace(rules, rules=_bert_tf2.rules(layers), drops=_bert_tf2.DROPS)


FAMILY = Family(
    model_type="bert",
    rules=RULES,
    evidence=(
        rf"{BERT}/embeddings/word_embeddings|.*/embeddings|(?:.*/)?masked_lm/embedding_table",
        rf"{BERT}/encoder/layer_\d+/attention/.*|.*/_attention_layer/_query_dense/kernel",
    ),
    describe=describe,
    adapt=adapt,
    config_files=("bert_config.json",),
    translate=translate,
    defaults={
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    },
    assume=assume,
    needs=("num_attention_heads",),
    check=check,
    side_files=side_files,
    remarks=remarks,
)
