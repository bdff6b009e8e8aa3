"""BigBird (google-research/bigbird): pre-training, classifier checkpoints, TriviaQA's SavedModel.

Variable names are those of the original core/modeling.py, pretrain/run_pretraining.py and
classifier/run_classifier.py; TriviaQA was trained with the Model Garden's encoder, whose names are
those of a SavedModel's object graph. Tensor names are those of transformers' modeling_big_bird.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import PlanError
from tfreader.files import read_small

from ..family import Beside, Config, Layout, SideFiles, Told, Variables
from ..rules.rule import Architecture, Fill, Rule, RuleSet, Tie
from ._bert_garden import TO_LAYER
from ._bert_kin import BertKin
from ._big_bird_kin import (
    ATTENTION,
    ENCODER_NORM,
    FULL,
    LONGEST_FULL,
    RELEASED,
    SCOPE,
    SPARSE,
    attention_remarks,
    check_attention,
    from_flags,
    gelu_remarks,
    lacking_blocks,
    number_of,
    scope_of,
)
from ._builders import dense, layer_norm, output_layer
from ._encoder import HIDDEN, embeddings, original_layers
from ._garden import ANY, BY_NAME, layer_rules
from ._tokenizers import is_sentencepiece, sentencepieces, tokenizer_config, too_many

WIDE = "intermediate_size"
TEXTS = "labels of texts"  # a head that no variable is for: the class is chosen by name alone
AS_BERT, BERT_CLASS = "what BERT has besides", "BertForSequenceClassification"
OWN_KEYS = ("attention_type", "block_size", "num_random_blocks", "rescale_embeddings", "use_bias")
NO_BIAS = "the original has no biases there (use_bias = false)"
# Of the Garden's layers, by their own names, and of the head by its path.
SCAFFOLD_0 = "transformer_scaffold(?:_0)?"
SELF = r"big_bird_attention(?:_\d+)?"
QUERY = re.compile(rf"{ANY}transformer_scaffold(?:_(\d{{1,9}}))?/{SELF}/query/kernel")
QUERY_BIAS = "/query/bias"
LOGITS = re.compile("(.*)/_logits_dense/kernel")
NAMES = replace(
    BY_NAME, heads=f"{SELF}/(?P<name>query|key|value)", joined=f"{SELF}/attention_output"
)
# The original's sizes with 64 to a head; of others a config has to tell.
HEADS = {768: 12, 1024: 16}


def rule_set(
    rules: tuple[Rule, ...], fills: tuple[Fill, ...] = (), remarks: tuple[str, ...] = ()
) -> RuleSet:
    return RuleSet(
        family="big_bird",
        name="big_bird",
        counts={"layer": "num_hidden_layers"},
        rules=rules,
        fills=fills,
        remarks=remarks,
        ties=(
            Tie("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight", "mlm"),
            Tie("cls.predictions.decoder.bias", "cls.predictions.bias", "mlm"),
        ),
        architectures=(
            Architecture("BigBirdForPreTraining", ("encoder", "pooler"), ("mlm", "nsp")),
            Architecture("BigBirdForMaskedLM", ("encoder", "pooler"), ("mlm",)),
            Architecture("BigBirdForQuestionAnswering", ("encoder",), ("squad",)),
            Architecture(BERT_CLASS, ("encoder", AS_BERT, "classifier"), (TEXTS,)),
            Architecture("BigBirdModel", ("encoder", "pooler?"), strip="bert."),
        ),
    )


def is_bert(config: Config) -> bool:
    return config.get("architectures") == [BERT_CLASS]


def answer_rules(scope: str) -> tuple[Rule, ...]:
    """The head of TriviaQA: a layer's second half, then the starts and ends."""
    part, to = "squad", "qa_classifier"
    return (
        *dense(part, f"{scope}/_intermediate_dense", f"{to}.intermediate.dense", HIDDEN, WIDE),
        *dense(part, f"{scope}/_output_dense", f"{to}.output.dense", WIDE, HIDDEN),
        *layer_norm(part, f"{scope}/_output_layer_norm", f"{to}.output.LayerNorm", HIDDEN),
        *dense(part, f"{scope}/_logits_dense", f"{to}.qa_outputs", HIDDEN, 2),
    )


def pooler_rules(source: str) -> Iterator[Rule]:
    """BigBird's class has it under another name than BERT's."""
    yield from dense("pooler", source, "bert.pooler", HIDDEN, HIDDEN)
    yield from dense(AS_BERT, source, "bert.pooler.dense", HIDDEN, HIDDEN)


def without_biases(layers: int) -> Iterator[Fill]:
    """The biases that a class has all the same, where use_bias is false; BERT's has all."""
    for i in range(layers):
        to = f"bert.encoder.layer.{i}.attention"
        yield Fill(f"{to}.output.dense.bias", (HIDDEN,), "zeros", NO_BIAS, "encoder")
        for name in ("query", "key", "value"):
            yield Fill(f"{to}.self.{name}.bias", (HIDDEN,), "zeros", NO_BIAS, AS_BERT)


class Original(Layout):
    name = "original"
    evidence = (f"{SCOPE}embeddings/word_embeddings", ENCODER_NORM, SCOPE + ATTENTION)
    absent = (f"{SCOPE}embeddings/LayerNorm/.*", ".*/attention/encdec/.*")

    def describe(self, config: Config, variables: Variables) -> Config:
        names = [name for name in variables if name.endswith("/attention/self/query/bias")]
        return {"use_bias": bool(names)}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Raises PlanError for layer norms before the layers' parts, which no class has."""
        scope = scope_of(variables, "bert")
        norm = re.compile(rf"{scope}encoder/layer_\d+/attention/self/LayerNorm/.*")
        if early := next(filter(norm.fullmatch, variables), None):
            raise PlanError(
                f"{early}: norm_type = prenorm: its layer norms come before the layers' parts, "
                "not behind them as in transformers' BigBird"
            )
        layers = original_layers(f"{scope}encoder", "bert.encoder")
        fills: tuple[Fill, ...] = ()
        if variables and not self.describe(config, variables)["use_bias"]:
            biases = "attention.output.dense.bias", "query.bias", "key.bias", "value.bias"
            layers = tuple(rule for rule in layers if not rule.targets[0].endswith(biases))
            fills = tuple(without_biases(number_of(variables, rf"{scope}encoder/layer_(\d+)/")))
        mlm, transform = "mlm", "(?:cls/predictions/)?transform"
        to = "cls.predictions.transform"
        rules = (
            *embeddings(
                "bert.embeddings",
                HIDDEN,
                f"{scope}embeddings/word_embeddings",
                f"{scope}embeddings/position_embeddings",
                f"{scope}embeddings/token_type_embeddings",
                f"{scope}encoder/LayerNorm",
            ),
            *layers,
            *pooler_rules(f"{scope}pooler/dense"),
            *dense(mlm, transform, f"{to}.dense", HIDDEN, HIDDEN),
            *layer_norm(mlm, transform, f"{to}.LayerNorm", HIDDEN),
            Rule(
                ("cls/predictions/output_bias",),
                ("cls.predictions.bias",),
                shape=("vocab_size",),
                part=mlm,
            ),
            *output_layer("nsp", "cls/seq_relationship/", "cls.seq_relationship", 2),
            *dense("classifier", f"{scope}classifier", "classifier", HIDDEN, "num_labels"),
            *(() if variables else answer_rules("layer_with_weights-1")),
        )
        head = re.compile(f"{scope}classifier/kernel")
        said = (
            f"{name.removesuffix('/kernel')}: behind the pooler, where "
            "BigBirdForSequenceClassification has two layers on the first token; "
            f"--architecture {BERT_CLASS} takes it where attention is full ({FULL}), and equals "
            "the original"
            for name in filter(head.fullmatch, variables)
        )
        return rule_set(rules, fills, tuple(said))

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """BERT is a BigBird of full attention whose embeddings are not scaled."""
        if kind.name != BERT_CLASS:
            return Told()
        if config.get("rescale_embeddings"):
            raise PlanError(f"{BERT_CLASS}: its embeddings are not scaled (rescale_embeddings)")
        if (found := config.get("attention_type", SPARSE)) != FULL:
            raise PlanError(
                f"{BERT_CLASS}: its attention is full, this one's {found}: where it is to see "
                f"texts of up to {LONGEST_FULL} tokens alone, or was trained so, --set "
                f"attention_type={FULL}; else convert to BigBirdModel"
            )
        return Told({"model_type": "bert"})


class Garden(Layout):
    """The Model Garden's encoder, with the head of its TriviaQA, by the variables' own names.

    The layers' numbers count all that a session made. The head's variables are known by path: two
    of its layers have one name.
    """

    name = "garden"
    evidence = (rf"{ANY}word_embeddings(?:_\d+)?/embeddings", QUERY.pattern)

    def describe(self, config: Config, variables: Variables) -> Config:
        kernels = {m[0]: int(m[1] or 0) for m in map(QUERY.fullmatch, variables) if m}
        shape = variables[next(iter(kernels))].shape if kernels else ()
        told: Config = {"num_hidden_layers": len({*kernels.values()})}
        told["use_bias"] = any(name.endswith(QUERY_BIAS) for name in variables)
        return told | ({"num_attention_heads": shape[1]} if len(shape) == 3 else {})

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        numbers = {int(m[1] or 0) for m in map(QUERY.fullmatch, variables) if m}
        scopes = [f"transformer_scaffold_{n}" if n else SCAFFOLD_0 for n in sorted(numbers)]
        layers = (
            rule
            for i, scope in enumerate(scopes)
            for rule in layer_rules(ANY + scope, NAMES, f"bert.encoder.layer.{i}", TO_LAYER)
        )
        heads = filter(None, map(LOGITS.fullmatch, variables))
        head = next((re.escape(match[1]) for match in heads), "layer_with_weights-1")
        rules = (
            *embeddings(
                "bert.embeddings",
                HIDDEN,
                rf"{ANY}word_embeddings(?:_\d+)?/embeddings",
                rf"{ANY}position_embedding(?:_\d+)?/embeddings",
                rf"{ANY}type_embeddings(?:_\d+)?/embeddings",
                rf"{ANY}embeddings(?:_\d+)?/layer_norm",
            ),
            *layers,
            *pooler_rules(rf"{ANY}cls_transform(?:_\d+)?"),
            *answer_rules(head),
        )
        return rule_set(rules)


class BigBird(BertKin):
    model_type = "big_bird"
    layouts = (Original(), Garden())
    aliases = ("big-bird", "bigbird")
    # TriviaQA's, model_config.json, is a name of any family's.
    config_files = ("pretrain.config", "classifier.config", "config.json")
    output_weight = "cls.predictions.decoder.weight"
    defaults: ClassVar = {
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    needs = ("num_attention_heads",)
    refused: ClassVar = {
        "BigBirdForSequenceClassification": "its head is two layers on the first token, the "
        f"original's one on the pooler: --architecture {BERT_CLASS} has the same where attention "
        "is full; else convert to BigBirdModel, and put such a layer on its pooler_output",
        "BigBirdForTokenClassification": "the original's code has no head for tokens",
        "BigBirdForMultipleChoice": "the original's code has no head for choices",
        "BigBirdForCausalLM": "the original's encoder reads in both directions",
    }

    def translate(self, original: Mapping[str, Any]) -> Config:
        return from_flags(self.model_type, original)

    def assume(self, config: Config, variables: Variables) -> Config:
        """What the original's scripts say of the released sizes; its gelu is the tanh form."""
        found: Config = {"hidden_act": "gelu_new", "rescale_embeddings": False}
        found["attention_type"] = SPARSE
        if config[HIDDEN] in HEADS:
            found |= {"num_attention_heads": HEADS[config[HIDDEN]], **RELEASED}
        return found

    def written(self, config: Config) -> Config:
        """Without the keys that BERT's class does not have, where it is one."""
        kept = {key: v for key, v in config.items() if not is_bert(config) or key not in OWN_KEYS}
        return super().written(kept)

    def check(self, config: Config) -> None:
        super().check(config)
        if not is_bert(config):
            check_attention(config)

    def lacking(self, config: Config) -> str:
        return lacking_blocks(config)

    def remarks(self, config: Config) -> tuple[str, ...]:
        if is_bert(config):
            return ()
        said = [*attention_remarks(config, "0.10 in a layer's outputs")]
        said += gelu_remarks("hidden_act", config)
        if "BigBirdForQuestionAnswering" in config.get("architectures", ()):
            said.append(
                "the head's layer norm has epsilon 1e-3 in the original, layer_norm_eps in "
                "transformers (measured: 7e-4 in the logits)"
            )
        return tuple(said)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """spiece.model and a tokenizer_config.json for it; the original's is vocab/gpt2.model."""
        names = ("spiece.model", "gpt2.model")
        path, found = beside.find_vocabulary(names, ("*.model",), is_sentencepiece)
        if path is None:
            return SideFiles({}, found)
        contents = read_small(path)
        pieces = sentencepieces(path, contents)
        length = config["max_position_embeddings"]
        files = tokenizer_config("BigBirdTokenizer", model_max_length=length)
        notes = (*found, *too_many(path, len(pieces), "pieces", config["vocab_size"]))
        return SideFiles({"spiece.model": contents, **files}, notes)


FAMILY = BigBird()
