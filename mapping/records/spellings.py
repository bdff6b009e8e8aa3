"""Other names that a model may have for a tensor: another release's, or one that is tied to it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ..families._hf_templates import Template, templates_for
from ..plan import Plan

Spellings = tuple[tuple[str, str], ...]

_OLD: Spellings = (
    (r"\bLayerNorm\.gamma$", "LayerNorm.weight"),  # of 2018 and 2019
    (r"\bLayerNorm\.beta$", "LayerNorm.bias"),
    (r"\bconv\.weight_g$", "conv.parametrizations.weight.original0"),  # of torch before 2.1
    (r"\bconv\.weight_v$", "conv.parametrizations.weight.original1"),
)
"""Names that from_pretrained changes on loading, and those that they become."""


def _attention(container: str) -> Spellings:
    letters = {"q": "query", "k": "key", "v": "value"}
    return tuple(
        (rf"\battention\.{letter}_proj\b", f"attention.{container}.{word}")
        for letter, word in letters.items()
    )


_DENSE: Spellings = (
    (r"\battention\.o_proj\b", "attention.output.dense"),
    (r"\bmlp\.fc1\b", "intermediate.dense"),
    (r"\bmlp\.fc2\b", "output.dense"),
)
_VIT: Spellings = (
    (r"\blayers\.(?=\d)", "encoder.layer."),
    (r"\bdecoder_encoder\.layer\.", "decoder_layers."),  # as ViTMAE is saved
    *_attention("attention"),
    *_DENSE,
)
_SWIN: Spellings = (
    (r"\battention\.relative_position_bias\.", "attention.self."),
    *_attention("self"),
    *_DENSE,
)
_NEW: Mapping[str, Spellings] = {
    **dict.fromkeys(("vit", "deit", "vit_mae", "vision-encoder-decoder"), _VIT),
    "swin": _SWIN,
}
"""Those of transformers 5 alone, by model type, and the ones that all releases load.

Its conversion_mapping.py has them the other way.
"""


def spelled_as_planned(names: Collection[str], plan: Plan) -> dict[str, str]:
    """The model's names by the ones that the plan would have for them."""
    targets = {entry.target for entry in plan.entries}
    spellings = (*_OLD, *_NEW.get(str((plan.config or {}).get("model_type")), ()))
    found = {name: name for name in names}
    for name in names:
        made = name
        for pattern, new in spellings:
            made = re.sub(pattern, new, made)
        if name not in targets and made not in found:
            found[made] = found.pop(name)
    return found


def ties(names: Collection[str], plan: Plan) -> dict[str, str]:
    """The tensors that the class knows under those names too, by them."""
    if (template := _template(plan)) is None:
        return dict(plan.ties)
    targets = {entry.target for entry in plan.entries}
    known = {name: template.tied_to(name) for name in names if name not in targets}
    return {name: end for name, end in known.items() if end in targets}


def has_ties(plan: Plan) -> bool:
    """Whether the class has tensors that are one, or not, by its config."""
    if kinds := templates_for(plan.architecture or "", plan.config):
        return any(kind.ties for kind in kinds)
    output = plan.family.output_weight if plan.family else None
    return bool(plan.ties) or any(entry.target == output for entry in plan.entries)


def base_prefixes(plan: Plan) -> set[str]:
    """Those with or without which from_pretrained loads the names of the base model."""
    template = _template(plan)
    of_classes = {kind.strip for kind in plan.rules.architectures}
    return {*of_classes, f"{template.base_model_prefix}." if template else ""} - {""}


def _template(plan: Plan) -> Template | None:
    """What is known of a class that TensorFlow had too."""
    if plan.family is None or not plan.family.any_type:
        return None
    return next(iter(templates_for(plan.architecture or "", plan.config)), None)
