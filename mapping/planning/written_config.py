"""The config to write, which describes the class that has the tensors of the plan."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from tfreader.errors import ConfigError

from ..config_checks import naming
from ..config_keys import TOKENS
from ..family import Config, Family
from ..findings import Findings, some
from ..plan import CASTABLE, Entry
from ..rules.rule import Architecture
from .config import SourceConfig
from .following import Followed
from .labels import PAIR
from .sizes import Sizes

MAX_LABELS = 1_000_000


def finish_config(
    followed: Followed,
    sizes: Sizes,
    kind: Architecture,
    entries: Iterable[Entry],
    ties: Collection[str],
    path: str,
    findings: Findings,
) -> Config | None:
    """The config to write: with what is assumed, the labels and the type.

    The class that it describes has the tensors of the plan, `ties` among them, and no others. None
    without a family, or where something does not fit. Raises ConfigError, which names the `path` of
    the checkpoint where the whole config makes no model.
    """
    family, source = followed.family, followed.source
    if family is None or findings.problems:
        return None
    finished: Config = {"model_type": family.model_type}
    finished |= {**family.defaults, **source.cleared, **sizes.config, **followed.rules.config}
    if kind.name:
        finished["architectures"] = [kind.name]
    for key, value in family.assume(finished, followed.spelled).items():
        if key not in finished and not (source.is_open and key in family.needs):
            finished[key] = value
            findings.notes.append(
                f"{key} = {json.dumps(value)}: the original's usual value, since no config "
                f"file and no shape tells it; where this model has another, add --set {key}=VALUE"
            )
    labels = finished.pop("num_labels", None)
    if labels is not None and (type(labels) is not int or not 0 < labels <= MAX_LABELS):
        raise ConfigError(f"{source.origin('num_labels')}: num_labels = {labels!r}")
    named = finished.get("id2label")
    if labels is not None and named and len(named) != labels:
        key = "label2id" if {*source.overridden} & {*PAIR} == {"label2id"} else "id2label"
        said = f"{source.origin(key)}: {key} names {len(named)} labels, "
        if family.any_type:  # whose num_labels no shape has told
            raise ConfigError(
                f"{said}and num_labels is {labels} in {source.origin('num_labels')}: leave that out"
            )
        raise ConfigError(
            f"{said}the checkpoint's head has {labels}: name as many with {naming(labels)}, or "
            "none with --set id2label=null"
        )
    if labels is not None and not named:
        names = [f"LABEL_{i}" for i in range(labels)]
        finished["id2label"] = {str(i): name for i, name in enumerate(names)}
        finished["label2id"] = {name: i for i, name in enumerate(names)}
    _check_fixed(family, finished, source, entries, ties, findings)
    _check_tokens(family, finished, source)
    floats = {str(entry.dtype) for entry in entries if entry.dtype in CASTABLE}
    if floats:  # a model is loaded in one type, which should hold them all
        widest = floats.pop() if len(floats) == 1 else "float32"
        finished.setdefault("dtype", widest)
    try:
        finished = family.written(finished)
        family.check(finished)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    findings.notes += family.remarks(finished)
    return finished


def _check_tokens(family: Family, config: Config, source: SourceConfig) -> None:
    """Refuse the number of a token beyond the vocabulary, where it was set, or fails to load.

    Configs of small copies of models have such numbers of the large ones, which do no harm but as
    that of padding where the class is made with its row.
    """
    size = config.get("vocab_size")
    for key in TOKENS:
        numbers = config.get(key)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        is_used = key == "pad_token_id" and family.pads
        if type(size) is not int or not (is_used or key in source.overridden):
            continue
        for number in numbers:
            if type(number) is int and number >= size:
                raise ConfigError(
                    f"{source.origin(key)}: {key} = {number}, but the vocabulary has {size} tokens "
                    f"(0 to {size - 1})"
                )


def _check_fixed(
    family: Family,
    config: Config,
    source: SourceConfig,
    entries: Iterable[Entry],
    ties: Collection[str],
    findings: Findings,
) -> None:
    """Refuse, or change and say so, what would give the class other tensors than there are."""
    for key, value in family.fixed.items():
        if config.get(key, value) != value:
            raise ConfigError(
                f"{source.origin(key)}: {key} = {json.dumps(config[key])}: that model has other "
                f"tensors than the checkpoint, or computes something else than the original; where "
                f"it does not belong there, --set {key}={json.dumps(value)}"
            )
    if family.output_weight in ties and config.get("tie_word_embeddings", True) is not True:
        said = f"tie_word_embeddings = {json.dumps(config['tie_word_embeddings'])}"
        reason = f"the checkpoint has no {family.output_weight} of its own"
        if "tie_word_embeddings" in source.overridden:
            raise ConfigError(f"--set {said}: {reason}")
        config["tie_word_embeddings"] = True
        findings.notes.append(
            f"tie_word_embeddings = true, in place of {said} in {source.path or 'the config'}, "
            f"since {reason}"
        )
    if config.get("pruned_heads"):
        raise ConfigError(
            f"{source.origin('pruned_heads')}: pruned_heads: the class would have less of these "
            "layers than the checkpoint, whose shapes are whole; --set pruned_heads=null"
        )
    is_own = any(entry.target == family.output_weight for entry in entries)
    if is_own and config.get("tie_word_embeddings", True) is True:
        said = f"{family.output_weight} is a tensor of its own, for which"
        if ties or "tie_word_embeddings" in source.values:
            why = (
                f"gives the class {some([*ties])} of its own too: map it with a rule"
                if ties
                else (f"has to be set, in place of true in {source.origin('tie_word_embeddings')}")
            )
            raise ConfigError(f"{said} tie_word_embeddings = false {why}")
        config["tie_word_embeddings"] = False
        findings.notes.append(
            f"tie_word_embeddings = false, since {said.removesuffix(', for which')}"
        )
