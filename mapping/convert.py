"""From a checkpoint to files or to a state dict, in one call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tfreader.checkpoint import Checkpoint
from tfreader.checksum import HASHES, HashName
from tfreader.errors import CheckpointNotFoundError, ConfigError, OutputError, TFReaderError
from tfreader.notebook import table
from tfreader.paths import AnyPath, as_path

from .execute import MEMORY_LIMIT, stream
from .families import open_source
from .family import SideFiles
from .findings import count
from .output import (
    check_inputs,
    check_output,
    check_place,
    names_folder,
    output_path,
    staged,
    tidy,
)
from .places import FILE_SUFFIXES, RECORD, is_torch_file, record_of
from .plan import Entry, Plan
from .planning.planner import PlanOptions, make_plan
from .records.manifest import (
    CHECKSUM,
    Hashed,
    Manifest,
    add_contents,
    complete,
    describe,
    is_current,
)
from .rules.rule import RuleSet
from .writers import safetensors
from .writers.safetensors import Layout, SafetensorsFile
from .writers.torch import StateDict, TorchFile, check_torch

if TYPE_CHECKING:
    import torch

DEFAULT_SHARD_SIZE = "50GB"  # as transformers 5

Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


@dataclass(frozen=True)
class Report:
    """What `convert` did: its plan, the files written, and what the user should know.

    `output` is empty where a dry run was given none. `skipped` says that the output was there
    already and was left alone, `missing` which data file a dry run did without.
    """

    plan: Plan
    output: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    skipped: bool = False
    missing: str | None = None

    def __repr__(self) -> str:
        done = "left alone" if self.skipped else count(self.files, "file")
        return (
            f"<Report {self.plan.path!r} -> {self.output!r}: "
            f"{self.plan.architecture or 'state dict'}, "
            f"{count(self.plan.entries, 'tensor')}, {done}>"
        )

    def _repr_html_(self) -> str:
        """For notebooks: what was written of what, and the plan."""
        rows = [*(("file", file) for file in self.files), *(("note", note) for note in self.notes)]
        return table(repr(self), ("", ""), rows) + self.plan._repr_html_()

    def to_data(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            **self.plan.to_data(),
            "output": self.output,
            "files": list(self.files),
            "notes": list(self.notes),
        }


def load_state_dict(
    path: str | os.PathLike[str],
    model_type: str = "auto",
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    rules: str | os.PathLike[str] | RuleSet | None = None,
    **options: Unpack[PlanOptions],
) -> dict[str, torch.Tensor]:
    """The PyTorch state dict of a checkpoint, in memory.

    It holds tied names too (sharing storage), so `model.load_state_dict` takes it as it is.
    `options` are those of `make_plan`: architecture, dtype, overrides, scope, ignore, target and so
    on. Needs the extra `torch`. Raises TFReaderError.
    """
    with open_source(path, model_type) as checkpoint:
        plan = make_plan(checkpoint, model_type, config=config, rules=rules, **options)
        check_torch(plan.entries)
        checkpoint.check_shards(_sources(plan))
        state_dict = StateDict(plan.entries, plan.ties)
        stream(plan, checkpoint, state_dict.write)
        return state_dict.tensors


def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    model_type: str = "auto",
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    vocab: str | os.PathLike[str] | None = None,
    rules: str | os.PathLike[str] | RuleSet | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    memory_limit: str | int = MEMORY_LIMIT,
    progress: Callable[[Plan], Progress] | None = None,
    record: bool = False,
    checksum: HashName = CHECKSUM,
    source_name: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
    **options: Unpack[PlanOptions],
) -> Report:
    """Convert a checkpoint to files.

    `output` ending in .bin, .pt or .pth becomes one torch file (needs the extra `torch`), in
    .safetensors one safetensors file, anything else a folder that `from_pretrained` loads, with the
    record of the conversion as conversion.json. `record` keeps one beside an output file too, and
    waits until all is on disk. `checksum` is what it has of each tensor: "crc32c", which finds what
    changed by accident, or "sha256", which finds what was changed on purpose too.
    `source_name` is what the record calls the checkpoint, by default its URL, or its name without
    folders.
    With `resume`, an output is left alone whose record says that it was made of the same contents,
    by the same rules and options. With `dry_run`, all is checked that can be before values are
    read; it needs no output, and is then that of a folder.

    `memory_limit` bounds the values that are in memory at a time; larger tensors go through in
    parts. `progress` is called with the plan before the first byte is read, and gives a function
    that is told of bytes written, from several threads. The other `options` are those of
    `make_plan`.

    Raises TFReaderError; then nothing has been written.
    """
    if checksum not in HASHES:
        raise ConfigError(f"unknown checksum {checksum!r}; known: {', '.join(HASHES)}")
    size = safetensors.parse_size(max_shard_size, "--max-shard-size")
    limit = safetensors.parse_size(memory_limit, "--memory-limit")
    if output is None and not dry_run:
        raise OutputError("no output is named, which only a dry run can do without")
    place = None if output is None else output_path(output)
    with open_source(path, model_type) as checkpoint:
        plan = make_plan(checkpoint, model_type, config=config, vocab=vocab, rules=rules, **options)
        is_folder = output is None or names_folder(output)
        target = _arrange(plan, checkpoint, place, is_folder, size)
        report = target.report(plan)
        if place is None:
            report = replace(report, output="")
        keeps_record = target.is_folder or record
        if checksum != CHECKSUM and not keeps_record:
            note = f"--checksum {checksum}: not used, as one file has no record"
            report = replace(report, notes=(*report.notes, note))
        if dry_run:
            return _without_data(report, checkpoint)
        checkpoint.check_shards(_sources(plan))
        manifest = None
        if keeps_record:
            given: dict[str, Any] = {"model_type": model_type, "max_shard_size": size, **options}
            given.pop("target", None)  # it changes no tensor
            manifest = describe(
                plan,
                checkpoint,
                given,
                target.weights,
                target.layouts,
                target.side,
                checksum,
                source_name,
            )
            if resume and is_current(
                target.output, target.is_folder, manifest, checkpoint, source_name
            ):
                tidy(target.output)
                return replace(report, skipped=True)
            add_contents(manifest, checkpoint)
        _write(plan, checkpoint, target, manifest, limit, progress, record or resume)
        return report


@dataclass(frozen=True)
class _Target:
    """What will be written: the tensors of each weights file by its name, and other files.

    `layouts` says where the tensors lie in those of safetensors.
    """

    output: AnyPath
    is_folder: bool
    weights: Mapping[str, Sequence[Entry]]
    layouts: Mapping[str, Layout]
    side: SideFiles

    @property
    def names(self) -> list[str]:
        """The names of all files, but for the record of a file."""
        record = [RECORD] if self.is_folder else []
        return sorted([*self.weights, *self.side.contents, *record])

    @property
    def files(self) -> tuple[str, ...]:
        folder = self.output if self.is_folder else self.output.parent
        return tuple(str(folder / name) for name in self.names)

    def report(self, plan: Plan) -> Report:
        return Report(plan, str(self.output), self.files, (*plan.notes, *self.side.notes))


def _arrange(
    plan: Plan,
    checkpoint: Checkpoint,
    output: AnyPath | None,
    is_folder: bool,
    max_shard_size: int,
) -> _Target:
    """Lay the files out, those of a folder where the output's name is that of no file either.

    Raises what writing them would raise for what is known by now.
    """
    is_folder |= output is not None and not output.name.endswith(FILE_SUFFIXES)
    if output is not None:
        check_output(output, is_folder, plan.path)
    if output is None or is_folder:
        weights, side = _folder(plan, _side_files(plan, checkpoint), max_shard_size)
    else:
        vocab = plan.beside.vocab
        notes = () if vocab is None else (f"{vocab}: not used, as one file has no tokenizer",)
        weights, side = {output.name: plan.entries}, SideFiles({}, notes)
    layouts = {}
    for name, entries in weights.items():
        if is_torch_file(name):
            check_torch(entries)
        else:
            layouts[name] = safetensors.layout(entries)
    target = _Target(output or Path(), is_folder, weights, layouts, side)
    if output is None:
        return target
    given = [as_path(plan.config_path)] if plan.config_path else []
    check_inputs(map(as_path, target.files), [*given, *plan.beside.found])
    check_place(output, is_folder, target.names)
    return target


def _folder(
    plan: Plan, side: SideFiles, max_shard_size: int
) -> tuple[Mapping[str, Sequence[Entry]], SideFiles]:
    """The tensors of each shard, and the other files with the index of several."""
    files = safetensors.shards(plan.entries, max_shard_size)
    names = safetensors.shard_names(len(files))
    contents = dict(side.contents)
    if len(files) > 1:
        contents["model.safetensors.index.json"] = safetensors.index_json(files, names)
    return dict(zip(names, files, strict=True)), SideFiles(contents, side.notes)


def _write(
    plan: Plan,
    checkpoint: Checkpoint,
    target: _Target,
    manifest: Manifest | None,
    memory_limit: int,
    progress: Callable[[Plan], Progress] | None,
    durable: bool,
) -> None:
    with staged(target.output, target.is_folder, durable) as stage:
        with ExitStack() as stack:
            writers: dict[str, SafetensorsFile | TorchFile] = {}
            for name, entries in target.weights.items():
                file: SafetensorsFile | TorchFile
                if name in target.layouts:
                    file = SafetensorsFile(stage / name, target.layouts[name])
                else:
                    file = TorchFile(stage / name, entries, plan.ties)
                writers |= dict.fromkeys((entry.target for entry in entries), file)
                stack.callback(file.close)

            def write(entry: Entry, offset: int, data: memoryview) -> None:
                writers[entry.target].write(entry, offset, data)

            hashed = Hashed(plan.entries, write, manifest["checksum"]) if manifest else None
            advance = progress(plan) if progress else lambda _: None
            stream(plan, checkpoint, hashed or write, advance, memory_limit)
            for file in set(writers.values()):
                file.finish()
        for name, contents in target.side.contents.items():
            (stage / name).write_bytes(contents)
        if manifest and hashed:
            sizes = {file.name: file.stat().st_size for file in stage.iterdir()}
            name = record_of(target.output, target.is_folder).name
            (stage / name).write_bytes(complete(manifest, sizes, hashed.digests()))


def _side_files(plan: Plan, checkpoint: Checkpoint) -> SideFiles:
    """config.json and the tokenizer's files."""
    if plan.family is None or plan.config is None:
        return SideFiles({}, ("no family is known: no config.json written",))
    check_config(plan)
    try:
        tokenizer = plan.family.side_files(checkpoint, plan.beside, plan.config)
    except OSError as error:
        if isinstance(error, TFReaderError):
            raise
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from None
    try:
        config = json.dumps(dict(sorted(plan.config.items())), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{plan.config_path or 'config'}: no JSON can hold it: {error}") from None
    contents = {**tokenizer.contents, "config.json": config.encode()}
    return SideFiles(contents, tokenizer.notes)


def check_config(plan: Plan) -> None:
    """Raise ConfigError where the plan's config lacks what config.json cannot do without."""
    assert plan.family is not None and plan.config is not None
    missing = [key for key in plan.family.needs if plan.config.get(key) is None]
    if missing:
        files = " or ".join(plan.family.config_files)
        raise ConfigError(
            f"{plan.path}: config.json needs {' and '.join(missing)}, which no shape tells\n"
            f"Pass {f'--config {files}, or ' if files else ''}"
            + " ".join(f"--set {key}=VALUE" for key in missing),
            code="missing-config",
            model_type=plan.family.model_type,
        )
    if lacking := plan.family.lacking(plan.config):
        raise ConfigError(
            f"{plan.path}: {lacking}", code="missing-config", model_type=plan.family.model_type
        )


def _without_data(report: Report, checkpoint: Checkpoint) -> Report:
    """A dry run's report; a plan needs no data files, but it says which are missing."""
    try:
        checkpoint.check_shards(_sources(report.plan))
    except CheckpointNotFoundError as error:
        note = f"planned from the index alone, a conversion needs the data too: {error}"
        return replace(report, notes=(*report.notes, note), missing=str(error))
    return report


def _sources(plan: Plan) -> list[str]:
    return [name for entry in plan.entries for name in entry.sources]
