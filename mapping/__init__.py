"""Map TensorFlow checkpoints to PyTorch state dicts.

>>> from tfreader.mapping import convert
>>> report = convert("bert_model.ckpt", "bert-base", model_type="bert")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .convert import Report, convert, load_state_dict
from .plan import Dtype, Entry, MovingAverages, Plan
from .planning.planner import make_plan
from .rules.dump import dump_rules
from .rules.rule import Rule, RuleSet
from .rules.rule_file import load_rules

if TYPE_CHECKING:
    from .records.audit import compare_output as compare
    from .records.compare import Comparison
    from .suggesting.suggest import suggest

__all__ = [
    "Comparison",
    "Dtype",
    "Entry",
    "MovingAverages",
    "Plan",
    "Report",
    "Rule",
    "RuleSet",
    "compare",
    "convert",
    "dump_rules",
    "load_rules",
    "load_state_dict",
    "make_plan",
    "suggest",
]

# What a conversion has no use for is imported when it is asked for.
_LATER = {
    "Comparison": ("records.compare", "Comparison"),
    "compare": ("records.audit", "compare_output"),
    "suggest": ("suggesting.suggest", "suggest"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    return getattr(import_module(f".{module}", __name__), attribute)
