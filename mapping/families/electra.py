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
from ._builders import dense
from ._electra_kin import (
    DISCRIMINATOR,
    EMBEDDING,
    GENERATOR,
    GENERATOR_HEAD,
    HEAD_SIZE,
    MLM,
    RTD,
    ElectraKin,
    Half,
    Size,
    check_answers,
    default_heads,
    generator_of,
    generators,
    tasks,
)
from ._encoder import HIDDEN, original_embeddings, original_layers

MODEL = "Electra"
USUAL = Half(DISCRIMINATOR, DISCRIMINATOR)
ELECTRIC = re.compile(r"(?:generator_(?:ltr|rtl)|cloze_predictions)/.*")
QUERY = re.compile(r".*/attention/self/query/kernel")
OF_CONVBERT = {"conv_kernel_size", "conv_type", "head_ratio", "linear_groups"}
PREDICTIONS = (
    *dense(RTD, f"{RTD}/dense", f"{RTD}.dense", HIDDEN, HIDDEN),
    *dense(RTD, f"{RTD}/dense_1", f"{RTD}.dense_prediction", HIDDEN, 1),
    *GENERATOR_HEAD,
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

        Raises PlanError for Electric and for a ConvBERT without convolutions, ConfigError where a
        task is to be chosen.
        """
        if electric := next(filter(ELECTRIC.fullmatch, variables), None):
            raise PlanError(
                f"{electric}: this is Electric (electric_objective), whose generator reads in both "
                "directions by two models and whose discriminator adds the generator's scores to "
                "its own: no class of transformers computes either"
            )
        has_convolutions = any("/conv_attn_key/" in name for name in variables)
        for name in filter(QUERY.fullmatch, variables):
            if len(set(variables[name].shape)) == 2 and not has_convolutions:
                raise PlanError(
                    f"{name} {[*variables[name].shape]}: heads of less than hidden_size, as those "
                    "of a ConvBERT without convolutions (conv_type noconv): no class of "
                    "transformers has such layers"
                )
        generator, rules = generator_of(variables), [*PREDICTIONS]
        for scope, half in ((DISCRIMINATOR, USUAL), (GENERATOR, generator)):
            sizes = half.sizes(variables)
            rules += half_rules(scope, not variables or sizes.get(EMBEDDING) != sizes.get(HIDDEN))
        task = tasks(MODEL, config, variables)
        return RuleSet(
            family="electra",
            name="electra",
            counts={"layer": "num_hidden_layers"},
            rules=(*rules, *task.rules),
            drops=(*task.drops, Drop(r"(?:.*/)?temperature", "of the samples of pre-training")),
            ties=(
                Tie("generator_lm_head.weight", "electra.embeddings.word_embeddings.weight", MLM),
            ),
            architectures=(
                Architecture("ElectraForPreTraining", USUAL.parts, (RTD,), beside=(MLM,)),
                Architecture("ElectraForMaskedLM", generator.parts, (MLM,)),
                task.labels,
                Architecture("ElectraForQuestionAnswering", USUAL.parts, ("squad",)),
                Architecture("ElectraModel", USUAL.parts, strip="electra."),
            ),
            remarks=task.remarks,
        )

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """A generator's sizes, where the config's are the discriminator's.

        The original makes them fractions of those, with a head for each 64 of hidden_size. Raises
        PlanError for answers of another form than the class's.
        """
        check_answers(MODEL, kind, config, variables)
        half = generator_of(variables)
        own, other = half.sizes(variables), USUAL.sizes(variables)
        if MLM not in kind.heads or half.layers != GENERATOR or HIDDEN not in own:
            return Told()
        own["num_attention_heads"] = default_heads(own[HIDDEN])
        other["num_attention_heads"] = config.get("num_attention_heads")
        by = f", and a head for each {HEAD_SIZE} of {HIDDEN} as in the original"
        return generators(config, asked, own, other, by)


class Electra(ElectraKin):
    model_type = "electra"
    layouts = (Original(),)
    needs = ("num_attention_heads",)
    sizes: ClassVar = {
        "small": Size(256, 12, 128),
        "base": Size(768, 12),
        "large": Size(1024, 24),
    }
    usual_size = "small"
    refused: ClassVar = {
        "ElectraForSequenceClassification": "its head has two layers with gelu between them, that "
        "of google-research's fine-tuning is one; --architecture ElectraForTokenClassification "
        "takes that, of whose logits those of a text's first token are the original's",
        "ElectraForMultipleChoice": "google-research's code has no head for choices",
    }

    def translate(self, original: Mapping[str, Any]) -> Config:
        """The same, but of a ConvBERT's, whose names are ELECTRA's without convolutions."""
        found = sorted(OF_CONVBERT & original.keys())
        if found or original.get("model_size") == "medium-small":
            raise ConfigError(
                f"{found[0] if found else 'model_size medium-small'}: of a ConvBERT, for which no "
                "class of transformers has layers without its convolutions (conv_type noconv)"
            )
        return super().translate(original)

    def assume(self, config: Config, variables: Variables) -> Config:
        """The original's gelu is the erf form; its heads are of one size unless it is told."""
        found: Config = {"hidden_act": "gelu"}
        if config[HIDDEN] % HEAD_SIZE == 0:
            found["num_attention_heads"] = default_heads(config[HIDDEN])
        return found


FAMILY = Electra()
