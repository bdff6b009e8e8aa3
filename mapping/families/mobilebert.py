"""MobileBERT (google-research/mobilebert): pre-training, distillation, classifier and SQuAD.

Variable names are those of the original modeling.py, run_pretraining.py, run_classifier.py and
run_squad.py; tensor names and shapes those of transformers' modeling_mobilebert.py. The names are
BERT's and more, in forms that the variables tell but for the heads and the activation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfreader.errors import ConfigError, PlanError

from ..config_checks import shown
from ..family import Config, Layout, Variables, same_keys
from ..rules.ops import Transpose
from ..rules.rule import Architecture, Drop, Fill, Rule, RuleSet, Tie
from . import _gelu
from ._bert_kin import ACTIVATIONS, BERT, MOBILE, ROOT, BertKin
from ._builders import dense, layer_norm, output_layer
from ._encoder import HIDDEN
from ._heads import with_head

EMBEDDING, INTRA, INNER = "embedding_size", "intra_bottleneck_size", "intermediate_size"
LAYER = BERT + r"/encoder/layer_(?P<layer>\d+)"
TO_LAYER = "mobilebert.encoder.layer.{layer}"
FFN = re.compile(rf"{BERT}/encoder/layer_\d+/ffn_layer_(?P<ffn>\d+)/.*")
NO_NORM = re.compile(rf"{BERT}/.*/FakeLayerNorm/(?:gamma|beta)")
QUANTIZED = re.compile(r".*/MobileBert(?:Act|Weight)FakeQuantWithMinMaxVars\w*/.*")
# The original's defaults (BertConfig); transformers' class has others for most.
DEFAULTS: Config = {
    "classifier_activation": True,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "key_query_shared_bottleneck": False,
    "normalization_type": "layer_norm",
    "num_feedforward_networks": 1,
    "trigram_input": False,
    "use_bottleneck": False,
    "use_bottleneck_attention": False,
}
# Of the release, google/mobilebert-uncased.
USUAL = {
    "classifier_activation": False,
    "key_query_shared_bottleneck": True,
    "normalization_type": "no_norm",
    "num_feedforward_networks": 4,
    "trigram_input": True,
    "use_bottleneck": True,
    "use_bottleneck_attention": False,
}
KINDS_OF_BOTTLENECK = ("use_bottleneck_attention", "key_query_shared_bottleneck")
NORMS = ("layer_norm", "no_norm", "manual_layer_norm")


def _shape(variables: Variables, name: str) -> tuple[int, ...]:
    """A variable's shape, in a module or not; empty where there is none."""
    found = (variables.get(f"{root}bert/{name}") for root in ("", "module/"))
    return next((info.shape for info in found if info is not None), ())


def _sizes(variables: Variables) -> tuple[int, int]:
    """Those of the layers and of the words' embeddings; 0 where nothing tells."""
    positions = _shape(variables, "embeddings/position_embeddings")
    words = _shape(variables, "embeddings/word_embeddings")
    return (positions or (0,))[-1], (words or (0,))[-1]


def told(config: Config, variables: Variables) -> Config:
    """What presence and shapes of variables tell of the form."""
    hidden, size = _sizes(variables)
    layer = "encoder/layer_0"
    narrow = _shape(variables, f"{layer}/bottleneck/input/dense/kernel")
    is_shared = bool(_shape(variables, f"{layer}/bottleneck/attention/dense/kernel"))
    values = _shape(variables, f"{layer}/attention/self/value/kernel")
    ffns = {match["ffn"] for match in map(FFN.fullmatch, variables) if match}
    found: Config = {
        "normalization_type": "no_norm" if any(map(NO_NORM.fullmatch, variables)) else "layer_norm",
        "num_feedforward_networks": len(ffns) + 1,
        "trigram_input": _shape(variables, "embeddings/embedding_transformation/kernel")[:1]
        == (3 * size,),
        "use_bottleneck": bool(narrow),
    }
    if _shape(variables, "pooler/dense/kernel"):
        found["classifier_activation"] = True
    elif "classifier_activation" not in config:
        found["classifier_activation"] = False
    if not narrow:  # these have no say
        unused = {INTRA: hidden, **dict.fromkeys(KINDS_OF_BOTTLENECK, False)}
        return found | {key: value for key, value in unused.items() if key not in config}
    found["key_query_shared_bottleneck"] = is_shared
    if is_shared or narrow[-1] != hidden:
        found["use_bottleneck_attention"] = not is_shared and values[:1] == narrow[-1:]
    return found


def layer_rules(form: Config) -> Iterator[Rule]:
    """The rules of a layer of that form."""
    norm = "FakeLayerNorm" if form["normalization_type"] == "no_norm" else "LayerNorm"
    has_bottleneck = form["use_bottleneck"]
    width = INTRA if has_bottleneck else HIDDEN
    values = width if form.get("use_bottleneck_attention") else HIDDEN

    def layer(source: str, target: str, inputs: str, outputs: str) -> Iterator[Rule]:
        source, target = f"{LAYER}/{source}/dense", f"{TO_LAYER}.{target}.dense"
        yield from dense("encoder", source, target, inputs, outputs)

    def normed(source: str, target: str, inputs: str, outputs: str) -> Iterator[Rule]:
        yield from layer(source, target, inputs, outputs)
        source, target = f"{LAYER}/{source}/{norm}", f"{TO_LAYER}.{target}.LayerNorm"
        yield from layer_norm("encoder", source, target, outputs)

    for name, inputs in (("query", width), ("key", width), ("value", values)):
        source, target = f"{LAYER}/attention/self/{name}", f"{TO_LAYER}.attention.self.{name}"
        yield from dense("encoder", source, target, inputs, width)
    yield from normed("attention/output", "attention.output", width, width)
    yield from layer("intermediate", "intermediate", width, INNER)
    yield from normed("output", "output", INNER, width)
    for number in range(form["num_feedforward_networks"] - 1):
        source, target = f"ffn_layer_{number}", f"ffn.{number}"
        yield from layer(f"{source}/intermediate", f"{target}.intermediate", width, INNER)
        yield from normed(f"{source}/output", f"{target}.output", INNER, width)
    if has_bottleneck:
        yield from normed("bottleneck/input", "bottleneck.input", HIDDEN, width)
        yield from normed("output/bottleneck", "output.bottleneck", width, HIDDEN)
    if has_bottleneck and form["key_query_shared_bottleneck"]:
        yield from normed("bottleneck/attention", "bottleneck.attention", HIDDEN, width)


def embedding_rules(form: Config, is_projected: bool) -> Iterator[Rule]:
    """The rules of the tables, of what makes layers' inputs of words, and of the norm."""
    source, target = f"{BERT}/embeddings", "mobilebert.embeddings"
    for table, rows, size in (
        ("word_embeddings", "vocab_size", EMBEDDING),
        ("position_embeddings", "max_position_embeddings", HIDDEN),
        ("token_type_embeddings", "type_vocab_size", HIDDEN),
    ):
        name = f"{target}.{table}.weight"
        yield Rule((f"{source}/{table}",), (name,), shape=(rows, size), part="encoder")
    if is_projected:
        name, size = "embedding_transformation", EMBEDDING
        size = f"3*{size}" if form["trigram_input"] else size
        yield from dense("encoder", f"{source}/{name}", f"{target}.{name}", size, HIDDEN)
    norm = "FakeLayerNorm" if form["normalization_type"] == "no_norm" else "LayerNorm"
    yield from layer_norm("encoder", f"{source}/{norm}", f"{target}.LayerNorm", HIDDEN)


MLM, TO_MLM = f"{ROOT}cls/predictions", "cls.predictions"
HEAD_RULES = (
    *dense("pooler", f"{BERT}/pooler/dense", "mobilebert.pooler.dense", HIDDEN, HIDDEN),
    *dense("mlm", f"{MLM}/transform/dense", f"{TO_MLM}.transform.dense", HIDDEN, HIDDEN),
    *layer_norm("mlm", f"{MLM}/transform/LayerNorm", f"{TO_MLM}.transform.LayerNorm", HIDDEN),
    Rule((f"{MLM}/output_bias",), (f"{TO_MLM}.bias",), shape=("vocab_size",), part="mlm"),
    *output_layer("nsp", f"{ROOT}cls/seq_relationship/", "cls.seq_relationship", 2),
    *output_layer("classifier", "", "classifier", "num_labels"),
    *output_layer("squad", "cls/squad/", "qa_outputs", "num_labels"),
)
SAME_SIZE = "embeddings are as wide as layers, so that the original has no such layer"


def of_size(hidden: int, size: int, has_projection: bool) -> tuple[list[Rule], list[Fill]]:
    """What makes scores of the last columns, and what stands for layers that are not there."""
    target = f"{TO_MLM}.dense.weight"
    if hidden != size or not hidden:
        columns = hidden - size if hidden else "*"
        source, shape = f"{MLM}/extra_output_weights", ("vocab_size", columns)
        return [Rule((source,), (target,), (Transpose(),), shape, "mlm")], []
    fills = [Fill(target, (0, "vocab_size"), "zeros", SAME_SIZE, "mlm")]
    if not has_projection:
        name = "mobilebert.embeddings.embedding_transformation"
        reason = f"{SAME_SIZE}, nor is it used"
        fills += (
            Fill(f"{name}.weight", (HIDDEN, EMBEDDING), "zeros", reason, "encoder"),
            Fill(f"{name}.bias", (HIDDEN,), "zeros", reason, "encoder"),
        )
    return [], fills


def architectures(pooler: tuple[str, ...]) -> tuple[Architecture, ...]:
    """The classes, with a pooler where it has weights (classifier_activation)."""
    pooled = ("encoder", *pooler)
    return (
        Architecture("MobileBertForPreTraining", pooled, ("mlm", "nsp")),
        Architecture("MobileBertForMaskedLM", ("encoder",), ("mlm",)),
        Architecture("MobileBertForNextSentencePrediction", pooled, ("nsp",)),
        Architecture("MobileBertForSequenceClassification", pooled, ("classifier",)),
        Architecture("MobileBertForTokenClassification", ("encoder",), ("classifier",)),
        Architecture("MobileBertForMultipleChoice", pooled, ("classifier",)),
        Architecture("MobileBertForQuestionAnswering", ("encoder",), ("squad",)),
        Architecture(
            "MobileBertModel",
            ("encoder", *(f"{part}?" for part in pooler)),
            strip="mobilebert.",
        ),
    )


class Original(Layout):
    name = "original"
    evidence = (
        rf"{BERT}/embeddings/word_embeddings",
        rf"{BERT}/encoder/layer_\d+/attention/.*",
        MOBILE,
    )

    def describe(self, config: Config, variables: Variables) -> Config:
        return told(config, variables)

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Those of the form that the variables tell.

        Raises PlanError for models that transformers' class is not.
        """
        if quantized := next(filter(QUANTIZED.fullmatch, variables), None):
            raise PlanError(
                f"{quantized}: trained to be quantized (use_quantized_training): the original "
                "rounds weights and values between these bounds, which no class of transformers "
                "does"
            )
        form = {**config, **told(config, variables)} if variables else USUAL
        hidden, size = _sizes(variables)
        key = _shape(variables, "encoder/layer_0/attention/self/key/kernel")
        if form["use_bottleneck"] and len(key) == 2 and key[0] != key[1]:
            raise PlanError(
                f"queries and keys are made of the layers' inputs, {list(key)}, as in the teacher "
                "of distillation (neither use_bottleneck_attention nor key_query_shared_bottleneck)"
                ": transformers' MobileBERT makes them of the bottleneck's"
            )
        has_projection = bool(_shape(variables, "embeddings/embedding_transformation/kernel"))
        extra, fills = of_size(hidden, size, has_projection)
        has_projection |= hidden != size or not hidden
        made = RuleSet(
            family="mobilebert",
            name="mobilebert",
            counts={"layer": "num_hidden_layers"},
            rules=(
                *embedding_rules(form, has_projection),
                *layer_rules(form),
                *HEAD_RULES,
                *extra,
            ),
            drops=(
                Drop(
                    "teacher/.*",
                    "the teacher of distillation, which --scope teacher --config FILE converts",
                ),
                Drop(r"(?:hidden|attention)_distill_\d+/.*", "of the losses of distillation"),
            ),
            ties=(
                Tie(
                    f"{TO_MLM}.decoder.weight",
                    "mobilebert.embeddings.word_embeddings.weight",
                    "mlm",
                ),
                Tie(f"{TO_MLM}.decoder.bias", f"{TO_MLM}.bias", "mlm"),
            ),
            fills=tuple(fills),
            architectures=architectures(("pooler",) if form["classifier_activation"] else ()),
        )
        return with_head(made, config, variables)


class MobileBert(BertKin):
    model_type = "mobilebert"
    layouts = (Original(),)
    config_files = ("bert_config.json",)
    pooler = "mobilebert.pooler.dense"
    activations = (*ACTIVATIONS, "relu6")
    output_weight = f"{TO_MLM}.decoder.weight"
    defaults: ClassVar = {
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    labels: ClassVar = {"MobileBertForMultipleChoice": 1}
    needs = ("num_attention_heads", "hidden_act", "use_bottleneck_attention")

    def translate(self, original: Mapping[str, Any]) -> Config:
        """The original's defaults where its config leaves out a key, as transformers' are others.

        A config of Hugging Face's, which says its model type, has those of transformers' class,
        and names activations otherwise. Raises ConfigError for a norm that nobody knows.
        """
        config = same_keys({k: v for k, v in original.items() if k != "true_hidden_size"})
        if not original or "model_type" in original:
            return config
        config = DEFAULTS | config
        for key in (EMBEDDING, INTRA):
            if HIDDEN in config:
                config.setdefault(key, config[HIDDEN])
        activation = config["hidden_act"].lower() or "linear"
        config["hidden_act"] = "gelu_new" if activation == "gelu" else activation
        norm = config["normalization_type"]
        if norm not in NORMS:
            raise ConfigError(f"normalization_type = {shown(norm)}, known are {', '.join(NORMS)}")
        if norm == "manual_layer_norm":
            config |= {"normalization_type": "layer_norm", "layer_norm_eps": 1e-6}
        if config["use_bottleneck"] and config["use_bottleneck_attention"]:
            # It goes before the other, for which transformers' class has layers all the same.
            config["key_query_shared_bottleneck"] = False
        return config

    def check(self, config: Config) -> None:
        width = INTRA if config["use_bottleneck"] else HIDDEN  # which the heads share
        if config.get("true_hidden_size", config[width]) != config[width]:
            raise ConfigError(
                f"true_hidden_size = {config['true_hidden_size']}, but it is {width}, "
                f"{config[width]}; leave it out"
            )
        if "hidden_act" in config:  # else it is asked for
            super().check({**config, HIDDEN: config[width]})

    def remarks(self, config: Config) -> tuple[str, ...]:
        said = [
            "padding: equal to the code that the released model is of; today's gives padding a "
            "score of -6 in place of -10000, by which outputs of padded texts are 3e-03 off"
        ]
        if config["normalization_type"] == "layer_norm":
            said.append(
                "normalization_type = layer_norm: transformers adds 1e-5 in some of its norms "
                "whatever layer_norm_eps says (1.6e-04 off in a small model)"
            )
        if config.get("hidden_act") == "gelu":
            said.append(_gelu.asked("hidden_act"))
        return tuple(said)


FAMILY = MobileBert()
