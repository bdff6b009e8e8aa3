"""Map TensorFlow checkpoints to PyTorch state dicts.

>>> from tfreader.mapping import convert
>>> report = convert("bert_model.ckpt", "bert-base", model_type="bert")
"""

from .convert import Report, convert, load_state_dict
from .plan import Dtype, Entry, MovingAverages, Plan
from .planning.planner import make_plan
from .records.audit import compare_output as compare
from .records.compare import Comparison
from .rules.dump import dump_rules
from .rules.rule import Rule, RuleSet
from .rules.rule_file import load_rules
from .suggest.suggest import suggest

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
