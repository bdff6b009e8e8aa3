"""TAPAS (google-research/tapas): pre-training, SQA, WTQ, WikiSQL and TabFact.

Variable names are those of the original models/bert/modeling.py, tapas_pretraining_model.py and
tapas_classifier_model.py; tensor names and shapes those of transformers' modeling_tapas.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tfreader.errors import ConfigError, PlanError
from tfreader.system import quoted

from ..config_checks import shown
from ..config_keys import keys_of
from ..family import Beside, Config, Layout, Told, Variables, same_keys
from ..findings import nearest
from ..rules.ops import Repeat, Slice, Squeeze
from ..rules.rule import Architecture, Drop, Fill, Rule, RuleSet, Tie
from . import _gelu
from ._bert_kin import BERT, ROOT, TABLES, BertKin
from ._builders import dense, layer_norm
from ._encoder import HIDDEN, NORM, original_layers, original_predictions
from ._tapas_tasks import AGGREGATION, CELL, CLASSES, COLUMN, HEADS, fitting, task_of

EMBEDDINGS = f"{BERT}/embeddings"
DISABLED = "disabled_features"
POSITIONS, NO_POSITIONS = "position_embeddings", "disable_position_embeddings"
# What the tables are of, in their order (get_token_type_features of models/bert/table_bert.py).
FEATURES = (
    "segment_ids",
    "column_ids",
    "row_ids",
    "prev_label_ids",
    "column_ranks",
    "inv_column_ranks",
    "numeric_relations",
)
TABLE = re.compile(rf"{EMBEDDINGS}/token_type_embeddings_([0-6])")
ONE_TABLE = re.compile(f"{EMBEDDINGS}/token_type_embeddings")
OTHER_ATTENTION = re.compile(rf"{BERT}/encoder/layer_\d+/attention/self/(?!(?:query|key|value)/).*")
QA, RESET = "TapasForQuestionAnswering", "reset_position_index_per_cell"
# The original's gelu is the tanh form.
ACTIVATIONS = {"gelu": "gelu_new"}
# Of the original's Answer.AggregationFunction (protos/interaction.proto).
OPERATORS = {"0": "NONE", "1": "SUM", "2": "AVERAGE", "3": "COUNT"}


RULES = RuleSet(
    family="tapas",
    name="tapas",
    counts={"layer": "num_hidden_layers"},
    rules=(
        Rule(
            (f"{EMBEDDINGS}/word_embeddings",),
            ("tapas.embeddings.word_embeddings.weight",),
            shape=("vocab_size", HIDDEN),
            part="encoder",
        ),
        *layer_norm("encoder", f"{EMBEDDINGS}/{NORM}", "tapas.embeddings.LayerNorm", HIDDEN),
        *original_layers(f"{BERT}/encoder", "tapas.encoder"),
        *dense("pooler", f"{BERT}/pooler/dense", "tapas.pooler.dense", HIDDEN, HIDDEN),
        *original_predictions(ROOT, "mlm"),
        Rule((CELL,), (CELL,), shape=(HIDDEN,), part="cells"),
        Rule(("output_bias",), ("output_bias",), shape=(), part="cells"),
        Rule((CLASSES,), ("classifier.weight",), shape=("num_labels", HIDDEN), part="classifier"),
        Rule(("output_bias_cls",), ("classifier.bias",), shape=("num_labels",), part="classifier"),
    ),
    drops=(Drop(ROOT + "cls/seq_relationship/.*", "no class has a head for next sentences"),),
    ties=(
        Tie("cls.predictions.decoder.weight", "tapas.embeddings.word_embeddings.weight", "mlm"),
        Tie("cls.predictions.decoder.bias", "cls.predictions.bias", "mlm"),
    ),
)
COLUMN_RULES = (
    Rule((COLUMN,), (COLUMN,), shape=(HIDDEN,), part="cells"),
    Rule(("column_output_bias",), ("column_output_bias",), shape=(), part="cells"),
)
AGGREGATION_RULES = (
    Rule(
        (AGGREGATION,),
        ("aggregation_classifier.weight",),
        shape=("num_aggregation_labels", HIDDEN),
        part="aggregation",
    ),
    Rule(
        ("output_bias_agg",),
        ("aggregation_classifier.bias",),
        shape=("num_aggregation_labels",),
        part="aggregation",
    ),
)
POSITION_RULE = Rule(
    (f"{EMBEDDINGS}/{POSITIONS}",),
    (f"tapas.embeddings.{POSITIONS}.weight",),
    shape=("max_position_embeddings", HIDDEN),
    part="encoder",
)


def architectures(has_aggregation: bool) -> tuple[Architecture, ...]:
    """The classes; that for questions has the head for aggregations where the config says so."""
    parts, more = ("encoder", "pooler"), ("aggregation",) if has_aggregation else ()
    others = ("cells", "aggregation")  # which training makes beside a classifier
    return (
        Architecture("TapasForMaskedLM", ("encoder",), ("mlm",)),
        Architecture(QA, parts, ("cells", *more)),
        Architecture("TapasForSequenceClassification", parts, ("classifier",), beside=others),
        Architecture("TapasModel", ("encoder", "pooler?"), strip="tapas."),
    )


def table_sizes(config: Config, variables: Variables) -> list[int | None]:
    """The rows of each table: by its shape, else by the config."""
    sizes: dict[int, int | None] = dict(enumerate(config.get("type_vocab_sizes", ())))
    for match in filter(None, map(TABLE.fullmatch, variables)):
        sizes[int(match[1])] = next(iter(variables[match[0]].shape), None)
    return [sizes.get(i) for i in range(len(FEATURES))]


def left_out(config: Config, variables: Variables) -> list[int]:
    """The tables that are not there, and need not be as the config says."""
    disabled = config.get(DISABLED, ())
    return [i for i in lost_tables(variables) if FEATURES[i] in disabled]


def lost_tables(variables: Variables) -> list[int]:
    """The tables that are not there, none without variables."""
    found = {int(match[1]) for match in map(TABLE.fullmatch, variables) if match}
    return [i for i in range(len(FEATURES)) if variables and i not in found]


def table_rules(config: Config, variables: Variables) -> Iterator[Rule]:
    """The rules for the tables; older code gave all tokens the first row of a disabled one."""
    without = left_out(config, variables)
    for i, rows in enumerate(table_sizes(config, variables)):
        if i in without:
            continue
        size = "*" if rows is None else rows
        name = f"token_type_embeddings_{i}"
        is_disabled = FEATURES[i] in config.get(DISABLED, ())
        ops = (Slice(0, 0, 1), Squeeze(0), Repeat(size)) if is_disabled else ()
        sources, targets = (f"{EMBEDDINGS}/{name}",), (f"tapas.embeddings.{name}.weight",)
        yield Rule(sources, targets, ops, (size, HIDDEN), "encoder")


def fills(config: Config, variables: Variables) -> Iterator[Fill]:
    """Zeros for the tensors that the class has and this model does without."""
    for i in left_out(config, variables):
        target = f"tapas.embeddings.token_type_embeddings_{i}.weight"
        reason = f"the original without {FEATURES[i]} ({DISABLED}) has no such table"
        size = table_sizes(config, variables)[i] or 0
        yield Fill(target, (size, HIDDEN), "zeros", reason, "encoder")
    if variables and not has_positions(variables) and config.get(NO_POSITIONS):
        reason = f"the original without positions ({NO_POSITIONS}) has no such table"
        target, shape = POSITION_RULE.targets[0], ("max_position_embeddings", HIDDEN)
        yield Fill(target, shape, "zeros", reason, "encoder")
    if CELL in variables and COLUMN not in variables:
        reason = "the original without select_one_column does not choose columns"
        yield Fill(COLUMN, (HIDDEN,), "zeros", reason, "cells")
        yield Fill("column_output_bias", (), "zeros", reason, "cells")


def _positions_remark(config: Config, variables: Variables) -> tuple[str, ...]:
    """What older code made of positions, to which a disabled column or row was 0 for all tokens."""
    names, lost = config.get(DISABLED, ()), lost_tables(variables)
    zeros = [f"{i} ({FEATURES[i]})" for i in (1, 2) if FEATURES[i] in names and i not in lost]
    if not zeros or not config.get(RESET):
        return ()
    return (
        f"{RESET} = true: the original counted positions as if these were 0 for all tokens, which "
        "transformers' model is not told: give it token_type_ids that are 0 in column "
        f"{' and '.join(zeros)}",
    )


def has_positions(variables: Variables) -> bool:
    return any(map(POSITION_RULE.patterns[0].fullmatch, variables))


def check(config: Config, variables: Variables) -> None:
    """Raise PlanError for what cannot be converted, or not yet."""
    if other := next(filter(OTHER_ATTENTION.fullmatch, variables), None):
        raise PlanError(
            f"{other}: attention with more than queries, keys and values, such as TableFormer's "
            "biases or projected values: no class of transformers has it"
        )
    disabled = config.get(DISABLED, [])
    if not isinstance(disabled, list) or not all(isinstance(name, str) for name in disabled):
        raise PlanError(f"{DISABLED} = {shown(disabled)}, expected a list of names")
    if other := next((name for name in disabled if name not in FEATURES), None):
        meant = nearest(other, FEATURES, 0.6)
        raise PlanError(
            f"{DISABLED} names {shown(other)}, which is none of {', '.join(FEATURES)}"
            + (f": is {meant!r} meant?" if meant else "")
        )
    if config.get(NO_POSITIONS) and has_positions(variables):
        raise PlanError(
            f"{NO_POSITIONS} = true, but the checkpoint has {POSITIONS}: this config belongs to "
            "another model"
        )
    check_lost(config, variables)
    task, heads = task_of(config), HEADS & variables.keys()
    if task is not None and heads and heads != task.heads:
        raise PlanError(
            f"--finetuning_task_name {config['finetuning_task']}: the heads of that task are "
            f"{', '.join(sorted(task.heads))}, those of the checkpoint {', '.join(sorted(heads))}"
        )


def check_lost(config: Config, variables: Variables) -> None:
    """Raise PlanError for tables that are not there, where nothing tells why, or of what size."""
    if any(map(ONE_TABLE.fullmatch, variables)):  # BERT's, which lacks them all
        return
    lost = lost_tables(variables)
    names, settings = [f"token_type_embeddings_{i}" for i in lost], []
    if lost and DISABLED not in config:
        disabled = json.dumps([FEATURES[i] for i in lost], separators=(",", ":"))
        settings.append(f"{DISABLED}={quoted(disabled)}")
    sizes = table_sizes(config, variables)
    if None in sizes and lost:
        known = ",".join("N" if size is None else str(size) for size in sizes)
        settings.append(f"type_vocab_sizes=[{known}]")
    if variables and not has_positions(variables) and NO_POSITIONS not in config:
        names.append(POSITIONS)
        settings.append(f"{NO_POSITIONS}=true")
    if not settings:
        return
    usual = "; the sizes of the releases are [3,256,256,2,256,256,10]"
    raise PlanError(
        f"no {', '.join(names)} in the checkpoint: it is not whole, or the original was told to do "
        f"without ({DISABLED}, {NO_POSITIONS}), of which nothing here says all\nPass --config "
        f"tapas_config.json, or of a model without {' '.join(f'--set {one}' for one in settings)}"
        f"{usual * (None in sizes)}"
    )


def _said(config: Config) -> str:
    return ", ".join(f"{key} = {shown(value)}" for key, value in config.items())


class Original(Layout):
    name = "original"
    evidence = (f"{EMBEDDINGS}/word_embeddings", TABLES, rf"{BERT}/encoder/layer_\d+/attention/.*")

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        """What the task that the user names is trained with, where no config tells it."""
        task = task_of(config)
        if task is None or task.heads != HEADS & variables.keys():
            return Told()
        name, settings = config["finetuning_task"], task.settings
        told = {key: value for key, value in settings.items() if key not in config}
        given = {
            key: config[key] for key, value in settings.items() if config.get(key, value) != value
        }
        notes = []
        if told:
            notes.append(f"{name}: {_said(told)}: what the original's run_task_main.py sets for it")
        if given:
            notes.append(f"{name}: {_said(given)}, as given: the original's run has other values")
        return Told(told, tuple(notes))

    def describe(self, config: Config, variables: Variables) -> Config:
        """The sizes of the tables, and which heads there are."""
        sizes = table_sizes(config, variables)
        found: Config = {} if None in sizes else {"type_vocab_sizes": sizes}
        if CELL in variables:
            heads: Config = {"select_one_column": COLUMN in variables}
            if AGGREGATION not in variables:
                heads["num_aggregation_labels"] = 0
            # Hugging Face's configs for TabFact say otherwise, of heads that their class lacks.
            is_free = CLASSES in variables
            found |= {k: v for k, v in heads.items() if not (is_free and k in config)}
        return found

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """With zeros for what settings of the original left out.

        Raises PlanError where its attention is of another form, where config and variables are not
        of one model, and where nothing tells the size of a table.
        """
        check(config, variables)
        is_whole = not variables
        disabled = config.get(DISABLED, ())
        remarks = tuple(
            f"token_type_embeddings_{i}: all rows are its first, as the original without {name} "
            f"({DISABLED}) reads no other"
            for i, name in enumerate(FEATURES)
            if name in disabled and i not in left_out(config, variables)
        )
        remarks += _positions_remark(config, variables)
        made = [*RULES.rules, *table_rules(config, variables)]
        filled = {fill.target: fill for fill in fills(config, variables)}
        made += [POSITION_RULE] if POSITION_RULE.targets[0] not in filled else []
        made += COLUMN_RULES if is_whole or COLUMN in variables else ()
        has_aggregation = is_whole or AGGREGATION in variables
        made += AGGREGATION_RULES if has_aggregation else ()
        return replace(
            RULES,
            rules=tuple(made),
            fills=tuple(filled.values()),
            architectures=architectures(has_aggregation),
            remarks=remarks,
        )


class Tapas(BertKin):
    model_type = "tapas"
    layouts = (Original(),)
    config_files = ("tapas_config.json", "bert_config.json")
    pooler = "tapas.pooler.dense"
    tokenizer = "TapasTokenizer"
    output_weight = "cls.predictions.decoder.weight"
    defaults: ClassVar = {
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    needs = ("num_attention_heads",)

    def flat(self, original: Mapping[str, Any]) -> Mapping[str, Any]:
        """tapas_config.json has bert_config.json in it, which lies beside it too."""
        inner = original.get("bert_config", {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"bert_config = {shown(inner)}, expected an object")
        return {**inner, **original}

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys from either file, with what the rules have to know of the other."""
        known = keys_of(self.model_type)
        outer = {*known.original, *known.foreign}
        config = same_keys({k: v for k, v in original.items() if k not in outer}, known.aliases)
        if config.get("hidden_act") in ACTIVATIONS:
            config["hidden_act"] = ACTIVATIONS[config["hidden_act"]]
        if original.get("num_classification_labels"):
            config["num_labels"] = original["num_classification_labels"]
        if "bert_config" in original:  # of tapas_config.json, which tells all settings
            config[DISABLED] = original.get(DISABLED, [])
            config[NO_POSITIONS] = original.get(NO_POSITIONS, False)
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        found: Config = {"hidden_act": "gelu_new"}
        is_usual = config.get("num_aggregation_labels") == len(OPERATORS)
        if is_usual and config.get("architectures") == [QA]:
            found |= {"aggregation_labels": OPERATORS, "no_aggregation_label_index": 0}
        return found

    def written(self, config: Config) -> Config:
        """Without what only the rules had to know."""
        inner = (DISABLED, NO_POSITIONS)
        return super().written({key: v for key, v in config.items() if key not in inner})

    def lacking(self, config: Config) -> str:
        """Whether positions restart in each cell, and how cells are chosen: no variable tells."""
        said = []
        wanted = ("temperature", "allow_empty_column_selection")
        lost = [key for key in wanted if key not in config and config.get("architectures") == [QA]]
        if lost:
            heads = {CELL} | ({COLUMN} if config.get("select_one_column") else set())
            tasks = fitting(
                heads | ({AGGREGATION} if config.get("num_aggregation_labels") else set())
            )
            named = f"--finetuning_task_name {' or '.join(tasks)} if it is of that, " * bool(tasks)
            said.append(
                f"config.json needs {' and '.join(lost)}, which no variable tells\nPass --config "
                f"tapas_config.json, {named}or {' '.join(f'--set {key}=VALUE' for key in lost)}"
            )
        if RESET not in config:
            said.append(
                f"config.json needs {RESET}, which no variable and no bert_config.json tells\nPass "
                f"--config tapas_config.json, --set {RESET}=true for a release whose name ends in "
                f"_reset, or --set {RESET}=false for one whose name does not; of a training of "
                f"your own it is its flag --{RESET}, by default false"
            )
        return "\n".join(said)

    def remarks(self, config: Config) -> tuple[str, ...]:
        said = []
        if config.get("hidden_act") == "gelu_new":
            said.append(_gelu.tanh("hidden_act", "2e-3 on the logits of cells"))
        if config.get("architectures") == [QA] and not config.get("select_one_column", True):
            given = ["labels=torch.zeros(input_ids.shape)"]
            if config.get("num_aggregation_labels") and config.get("use_answer_as_supervision"):
                given += [
                    "float_answer=torch.zeros(len(input_ids))",
                    "numeric_values=torch.zeros(input_ids.shape)",
                    "numeric_values_scale=torch.ones(input_ids.shape)",
                ]
            elif config.get("num_aggregation_labels"):
                given.append("aggregation_labels=torch.zeros(len(input_ids), dtype=torch.long)")
            said.append(
                f"select_one_column = false: {QA} computes that only where it is given labels, and "
                f"raises ValueError without; to predict pass it {', '.join(given)}"
            )
        return tuple(said)


FAMILY = Tapas()
