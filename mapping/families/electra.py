"""ELECTRA (google-research/electra): either half of pre-training, tagging and SQuAD checkpoints.

Variable names are those of the original model/modeling.py, run_pretraining.py and finetune/; tensor
names and shapes those of transformers' modeling_electra.py. The discriminator is below `electra`,
the generator below `generator`; `_electra_kin.py` tells more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from tfreader.errors import ConfigError, PlanError

from ..family import Config, Layout, Told, Variables
from ..rules.rule import Architecture, Drop, Rule, RuleSet, Tie
from ._bert_kin import BertKin
from ._builders import dense, layer_norm
from ._electra_kin import (
    DISCRIMINATOR,
    EMBEDDING,
    GENERATOR,
    HEAD_SIZE,
    TASK_SCOPE,
    Half,
    chosen_head,
    default_heads,
    from_hparams,
    generator_of,
    head_rules,
)
from ._encoder import HIDDEN, NORM, original_embeddings, original_layers

MODEL = "Electra"
USUAL = Half(DISCRIMINATOR, DISCRIMINATOR)
MLM, RTD = "generator_predictions", "discriminator_predictions"
ELECTRIC = re.compile(r"(?:generator_(?:ltr|rtl)|cloze_predictions)/.*")
TEXTS = "labels of texts"  # a head that no variable is for: the class is chosen by name alone
PREDICTIONS = (
    *dense(RTD, f"{RTD}/dense", f"{RTD}.dense", HIDDEN, HIDDEN),
    *dense(RTD, f"{RTD}/dense_1", f"{RTD}.dense_prediction", HIDDEN, 1),
    *dense(MLM, f"{MLM}/dense", f"{MLM}.dense", HIDDEN, EMBEDDING),
    *layer_norm(MLM, f"{MLM}/{NORM}", f"{MLM}.LayerNorm", EMBEDDING),
    Rule((f"{MLM}/output_bias",), ("generator_lm_head.bias",), shape=("vocab_size",), part=MLM),
)


def half_rules(scope: str, is_projected: bool) -> Iterator[Rule]:
    """The rules for a model's embeddings and layers below a scope."""
    embeddings, layers = Half(scope, scope).parts
    yield from original_embeddings(embeddings, "electra.embeddings", EMBEDDING, embeddings)
    if is_projected:
        source, target = f"{scope}/embeddings_project", "electra.embeddings_project"
        yield from dense(layers, source, target, EMBEDDING, HIDDEN)
    yield from original_layers(layers, "electra.encoder", layers)


class Original(Layout):
    name = "original"
    evidence = (
        r"(?:electra|generator)/embeddings/word_embeddings",
        r"(?:electra|generator)/encoder/layer_\d+/attention/.*",
    )
    absent = (r".*/conv_attn_key/.*",)  # of ConvBERT

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Each half has a projection where its sizes differ; of several tasks' heads one counts.

        Raises PlanError for Electric, ConfigError where a task is to be chosen.
        """
        if electric := next(filter(ELECTRIC.fullmatch, variables), None):
            raise PlanError(
                f"{electric}: this is Electric (electric_objective), whose generator reads in both "
                "directions by two models and whose discriminator adds the generator's scores to "
                "its own: no class of transformers computes either"
            )
        generator, rules = generator_of(variables), [*PREDICTIONS]
        for scope, half in ((DISCRIMINATOR, USUAL), (GENERATOR, generator)):
            sizes = half.sizes(variables)
            rules += half_rules(scope, not variables or sizes.get(EMBEDDING) != sizes.get(HIDDEN))
        head, others = chosen_head(MODEL, config, variables)
        drops = [Drop(f"{re.escape(scope)}/.*", "head of another task") for scope in others]
        if head is None:
            scope, parts = TASK_SCOPE, [] if variables else ["classifier", "squad"]
        else:
            scope, parts = re.escape(head.scope), [head.part]
            drops += [] if head.part else [Drop(f"{scope}/.*", "head of no class")]
        rules += [rule for part in parts for rule in head_rules(part, scope)]
        labels = Architecture("ElectraForTokenClassification", USUAL.parts, ("classifier",))
        if head is not None and head.is_of_texts:
            labels = Architecture(labels.name, (*USUAL.parts, "classifier"), (TEXTS,))
        return RuleSet(
            family="electra",
            name="electra",
            counts={"layer": "num_hidden_layers"},
            rules=tuple(rules),
            drops=(*drops, Drop(r"(?:.*/)?temperature", "of the samples of pre-training")),
            ties=(
                Tie("generator_lm_head.weight", "electra.embeddings.word_embeddings.weight", MLM),
            ),
            architectures=(
                Architecture("ElectraForPreTraining", USUAL.parts, (RTD,), beside=(MLM,)),
                Architecture("ElectraForMaskedLM", generator.parts, (MLM,)),
                labels,
                Architecture("ElectraForQuestionAnswering", USUAL.parts, ("squad",)),
                Architecture("ElectraModel", USUAL.parts, strip="electra."),
            ),
            remarks=(head.said,) if head is not None and head.said else (),
        )

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """A generator's sizes, where the config's are the discriminator's.

        The original makes them fractions of those, with a head for each 64 of hidden_size. Raises
        PlanError for answers of another form than the class's.
        """
        head, _ = chosen_head(MODEL, config, variables)
        if kind.heads == ("squad",) and head is not None and head.part != "squad":
            raise PlanError(f"{kind.name}: {head.said}")
        half = generator_of(variables)
        own, other = half.sizes(variables), USUAL.sizes(variables)
        if MLM not in kind.heads or half.layers != GENERATOR or HIDDEN not in own:
            return Told()
        own["num_attention_heads"] = default_heads(own[HIDDEN])
        other["num_attention_heads"] = config.get("num_attention_heads")
        if not any(_fits(config, sizes) for sizes in (own, other)):
            return Told()  # a config of neither, or of a generator by another rule
        others = {key: value for key, value in own.items() if config.get(key) != value}
        told = {key: value for key, value in others.items() if key not in asked}
        given = [key for key in told if key in config]
        said = ", ".join(f"{key} = {value}" for key, value in told.items())
        inplace = f", in place of the discriminator's {', '.join(given)}" if given else ""
        rule = f", and a head for each {HEAD_SIZE} of {HIDDEN} as in the original"
        by = f"by its shapes{rule if 'num_attention_heads' in told else ''}"
        note = f"generator: {said}: {by}{inplace}"
        return Told(told, (note,)) if told else Told()


def _fits(config: Config, sizes: Config) -> bool:
    return all(config.get(key, size) == size for key, size in sizes.items())


class Electra(BertKin):
    model_type = "electra"
    layouts = (Original(),)
    config_files = ("hparams.json",)
    output_weight = "generator_lm_head.weight"
    defaults: ClassVar = {
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    needs = ("num_attention_heads",)
    refused: ClassVar = {
        "ElectraForSequenceClassification": "its head has two layers with gelu between them, that "
        "of google-research's fine-tuning is one; --architecture ElectraForTokenClassification "
        "takes that, of whose logits those of a text's first token are the original's",
        "ElectraForMultipleChoice": "google-research's code has no head for choices",
    }

    def translate(self, original: Mapping[str, Any]) -> Config:
        return from_hparams(self.model_type, original)

    def assume(self, config: Config, variables: Variables) -> Config:
        """The original's gelu is the erf form; its heads are of one size unless it is told."""
        found: Config = {"hidden_act": "gelu"}
        if config[HIDDEN] % HEAD_SIZE == 0:
            found["num_attention_heads"] = default_heads(config[HIDDEN])
        return found

    def check(self, config: Config) -> None:
        super().check(config)
        kinds = config.get("architectures", ())
        if "ElectraForMaskedLM" in kinds and config["hidden_act"] not in ("gelu", "gelu_python"):
            raise ConfigError(
                f"hidden_act = {config['hidden_act']!r}: the original's generator has it in its "
                "head too, where transformers' ElectraForMaskedLM always has gelu"
            )

    def remarks(self, config: Config) -> tuple[str, ...]:
        return ()


FAMILY = Electra()
