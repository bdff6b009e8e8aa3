"""Check what was converted: the output against its record, the record against the checkpoint."""

from __future__ import annotations

from os import PathLike
from typing import Any

from tfreader.checkpoint import VerifyReport
from tfreader.errors import CheckpointNotFoundError, ChecksumError
from tfreader.paths import AnyPath

from ..execute import stream
from ..families import open_source
from ..places import RECORD, find_record, overrules
from ..planning.planner import PlanOptions, make_plan
from ..rules.rule_file import parse_rules
from .manifest import Hashed, Manifest, checksum_kind, load
from .recorded import Recorded, differences


def verify_output(output: str | PathLike[str]) -> VerifyReport:
    """Check the files of a conversion against its record.

    Raises ChecksumError, whose `problems` lists every file and tensor that is not as recorded,
    CheckpointNotFoundError without a record, MissingExtraError for a torch file without torch.
    """
    record, manifest = _record(output)
    recorded = Recorded(manifest)
    paths = [record.parent / name for name in manifest["files"]]
    problems = [problem for path in paths for problem in recorded.problems(path)]
    problems += _strangers(record, manifest)
    if problems:
        raise ChecksumError.of(str(output), problems)
    nbytes = sum(manifest["files"][name]["size"] for name in recorded.tensors)
    return VerifyReport(len(manifest["tensors"]), nbytes)


def verify_against(output: str | PathLike[str], checkpoint: str | PathLike[str]) -> VerifyReport:
    """Make the tensors of a conversion again from its checkpoint, and compare them to its record.

    Raises ChecksumError, whose `problems` lists every tensor that comes out otherwise, and what
    `make_plan` and reading the checkpoint raise.
    """
    _, manifest = _record(output)
    recorded = manifest["options"]
    model_type = recorded["model_type"]
    options: Any = {key: recorded[key] for key in PlanOptions.__annotations__ if key in recorded}
    rules = manifest["rules"]
    with open_source(checkpoint, model_type) as source:
        plan = make_plan(
            source,
            model_type,
            config=manifest["config"]["original"],
            rules=parse_rules(rules["text"], rules["name"]) if "text" in rules else None,
            **options,
        )
        kind = checksum_kind(manifest)
        made = Hashed(plan.entries, lambda *_: None, kind)
        stream(plan, source, made)
        digests = made.digests()
        planned = plan.to_data()
        found = {
            tensor["target"]: {**tensor, kind: digests[tensor["target"]]}
            for tensor in planned["tensors"]
        }
        expected = {
            tensor["target"]: {key: value for key, value in tensor.items() if key != "file"}
            for tensor in manifest["tensors"]
        }
        problems = differences(str(checkpoint), expected, found)
        if problems and source.index_sha256() != manifest["source"]["index_sha256"]:
            problems.insert(
                0, f"{checkpoint}: not the checkpoint that was converted: another index"
            )
    if problems:
        raise ChecksumError.of(str(output), problems)
    return VerifyReport(len(found), plan.nbytes)


def _record(output: str | PathLike[str]) -> tuple[AnyPath, Manifest]:
    record = find_record(output)
    if record is None:
        raise CheckpointNotFoundError(
            f"{output}: no record of a conversion there ({RECORD}), so nothing to check it against"
        )
    return record, load(record)


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
