"""Check what was converted: against its record, and against the checkpoint that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from tfreader.checkpoint import VerifyReport
from tfreader.errors import CheckpointNotFoundError, ChecksumError
from tfreader.paths import AnyPath
from tfreader.statistics import Statistics

from ..families import open_source
from ..places import RECORD, find_record, overrules
from ..planning.planner import PlanOptions
from ..rules.rule_file import parse_rules
from .candidates import Making
from .compare import Comparison, compare_seen
from .manifest import Manifest, checksum_kind, load
from .recorded import Recorded
from .seen import Seen


def verify_output(output: str | PathLike[str]) -> VerifyReport:
    """Check the files of a conversion against its record.

    Raises ChecksumError, whose `problems` lists every file and tensor that is not as recorded,
    CheckpointNotFoundError without a record.
    """
    record, manifest = _record(output)
    if problems := _problems(record, manifest):
        raise ChecksumError.of(str(output), problems)
    files = {tensor["file"] for tensor in manifest["tensors"]}
    nbytes = sum(manifest["files"][name]["size"] for name in files)
    return VerifyReport(len(manifest["tensors"]), nbytes)


def compare_output(
    model: str | PathLike[str],
    checkpoint: str | PathLike[str],
    model_type: str = "auto",
    statistics: dict[str, Statistics] | None = None,
    **options: Any,
) -> Comparison:
    """Compare a model to its checkpoint; one that was converted here to its record too.

    Such a model's record says how it was made, as far as the `options` of `compare` leave that
    open. `statistics` is filled with those of its tensors. Raises what `compare` raises.
    """
    record = find_record(model)
    manifest = load(record) if record is not None else None
    seen = Seen(checksum_kind(manifest) if manifest else None, statistics is not None)
    given = options if model_type == "auto" else {**options, "model_type": model_type}
    recorded = _as_recorded(manifest) if manifest else {"model_type": "auto"}
    arguments: Any = {"config": None, "rules": None, **recorded, **given}
    kind, config, rules = (arguments.pop(key) for key in ("model_type", "config", "rules"))
    found = compare_seen(model, checkpoint, Making(kind, config, rules, arguments), seen)
    if statistics is not None:
        statistics.update(seen.statistics)
    if record is None or manifest is None:
        return found
    problems = _problems(record, manifest, seen.digests)
    if problems or not found.ok:
        with open_source(checkpoint, kind) as source:
            if source.index_sha256() != manifest["source"]["index_sha256"]:
                said = "not the checkpoint that was converted: another index"
                problems.insert(0, f"{checkpoint}: {said}")
    return replace(found, others=(*problems, *found.others))


def verify_against(output: str | PathLike[str], checkpoint: str | PathLike[str]) -> VerifyReport:
    """Make the tensors of a model again from its checkpoint, and compare them.

    Raises ChecksumError, whose `problems` lists every tensor that differs, and what
    `compare_output` raises.
    """
    found = compare_output(output, checkpoint)
    if not found.ok:
        raise ChecksumError.of(str(output), found.problems)
    return VerifyReport(len(found.rows), found.nbytes)


def _as_recorded(manifest: Manifest) -> dict[str, Any]:
    """The arguments with which a model was converted."""
    recorded, rules = manifest["options"], manifest["rules"]
    return {
        "model_type": recorded["model_type"],
        "config": manifest["config"]["original"],
        "rules": parse_rules(rules["text"], rules["name"]) if "text" in rules else None,
        **{key: recorded[key] for key in PlanOptions.__annotations__ if key in recorded},
    }


def _record(output: str | PathLike[str]) -> tuple[AnyPath, Manifest]:
    record = find_record(output)
    if record is None:
        raise CheckpointNotFoundError(
            f"{output}: no record of a conversion there ({RECORD}), so nothing to check it against"
        )
    return record, load(record)


def _problems(
    record: AnyPath, manifest: Manifest, digests: Mapping[str, str] | None = None
) -> list[str]:
    """What is not as recorded; `digests` are checksums of tensors that are known already."""
    recorded = Recorded(manifest, digests)
    paths = [record.parent / name for name in manifest["files"]]
    problems = [problem for path in paths for problem in recorded.problems(path)]
    return problems + _strangers(record, manifest)


def _strangers(record: AnyPath, manifest: Manifest) -> list[str]:
    """Files that would be loaded before those of an output folder, or change what they mean."""
    if record.name != RECORD:
        return []
    found = sorted(path.name for path in record.parent.iterdir())
    return [
        f"{record.parent / name}: not of this conversion, and would be loaded in place of {ours}, "
        "or with it"
        for name in found
        if (ours := overrules(name, manifest["files"]))
    ]
