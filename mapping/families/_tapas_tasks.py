"""What TAPAS' original code is told for its tasks, where no file beside a checkpoint tells it.

Its run_task_main.py takes these from hparam_utils.get_hparams; what is the same for all tasks is
transformers' default too. The heads are variables of tapas_classifier_model.py.
"""

from __future__ import annotations

from typing import NamedTuple

from ..family import Config

CELL, COLUMN, AGGREGATION = "output_weights", "column_output_weights", "output_weights_agg"
CLASSES = "output_weights_cls"
HEADS = {CELL, COLUMN, AGGREGATION, CLASSES}


class Task(NamedTuple):
    """The heads that a task trains, and the settings that tell it from others."""

    heads: frozenset[str]
    settings: Config


TASKS = {
    "sqa": Task(
        frozenset({CELL, COLUMN}),
        {"temperature": 1.0, "allow_empty_column_selection": False},
    ),
    "wtq": Task(
        frozenset({CELL, COLUMN, AGGREGATION}),
        {
            "use_answer_as_supervision": True,
            "answer_loss_cutoff": 0.664694,
            "cell_selection_preference": 0.207951,
            "huber_loss_delta": 0.121194,
            "init_cell_selection_weights_to_zero": True,
            "allow_empty_column_selection": False,
            "temperature": 0.0352513,
        },
    ),
    "wikisql": Task(
        frozenset({CELL, AGGREGATION}),
        {
            "use_answer_as_supervision": True,
            "answer_loss_cutoff": 0.185567,
            "cell_selection_preference": 0.611754,
            "huber_loss_delta": 1265.74,
            "allow_empty_column_selection": False,
            "temperature": 0.107515,
        },
    ),
    "wikisql_supervised": Task(
        frozenset({CELL, COLUMN, AGGREGATION}),
        {
            "use_answer_as_supervision": False,
            "answer_loss_cutoff": 36.4519,
            "cell_selection_preference": 0.903421,
            "huber_loss_delta": 222.088,
            "init_cell_selection_weights_to_zero": True,
            "allow_empty_column_selection": True,
            "temperature": 0.763141,
        },
    ),
    "tabfact": Task(
        frozenset({CELL, CLASSES}),
        {
            "disable_per_token_loss": True,
            "allow_empty_column_selection": False,
            "temperature": 1.0,
        },
    ),
}


def task_of(config: Config) -> Task | None:
    """The task that the user names, in any case and with - or _."""
    return TASKS.get(str(config.get("finetuning_task", "")).lower().replace("-", "_"))


def fitting(heads: set[str]) -> list[str]:
    """The names of the tasks that train just these heads."""
    return [name for name, task in TASKS.items() if task.heads == heads]
