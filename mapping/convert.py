"""From a checkpoint to files or to a state dict, in one call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, OutputError

from .execute import MEMORY_LIMIT, stream
from .family import Beside, SideFiles, open_source
from .output import staged
from .plan import Entry, Plan
from .planner import PlanOptions, make_plan
from .rule import RuleSet
from .writers import safetensors
from .writers import torch as torch_writer

if TYPE_CHECKING:
    import torch

DEFAULT_SHARD_SIZE = "50GB"  # as transformers 5
TORCH_SUFFIXES = (".bin", ".pt", ".pth")

Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


@dataclass(frozen=True)
class Report:
    """What `convert` did: its plan, the files written, and what the user should know."""

    plan: Plan
    output: str
    files: tuple[str, ...]
    notes: tuple[str, ...]

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
    `options` are those of `make_plan`: architecture, dtype, overrides, ignore, moving_averages.
    Needs the extra `torch`. Raises TFReaderError.
    """
    with open_source(path, model_type) as checkpoint:
        plan = make_plan(checkpoint, model_type, config=config, rules=rules, **options)
        torch_writer.check_torch(plan.entries)
        checkpoint.check_shards(_sources(plan))
        state_dict = torch_writer.StateDict(plan.entries, plan.ties)
        stream(plan, checkpoint, state_dict.write)
        return state_dict.tensors


def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model_type: str = "auto",
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    rules: str | os.PathLike[str] | RuleSet | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    memory_limit: str | int = MEMORY_LIMIT,
    progress: Callable[[Plan], Progress] | None = None,
    **options: Unpack[PlanOptions],
) -> Report:
    """Convert a checkpoint to files.

    `output` ending in .bin, .pt or .pth becomes one torch file (needs the extra `torch`), in
    .safetensors one safetensors file, anything else a folder that `from_pretrained` loads.
    `memory_limit` bounds the values that are in memory at a time; larger tensors go through in
    parts. `progress` is called with the plan before the first byte is read, and gives a function
    that is told of bytes written, from several threads. The other `options` are those of
    `make_plan`.

    Raises TFReaderError; then nothing has been written.
    """
    output = Path(output)
    size, limit = map(safetensors.parse_size, (max_shard_size, memory_limit))
    with open_source(path, model_type) as checkpoint:
        plan = make_plan(checkpoint, model_type, config=config, rules=rules, **options)
        return write(plan, checkpoint, output, size, limit, progress)


def is_folder_output(output: Path) -> bool:
    return output.suffix not in (*TORCH_SUFFIXES, ".safetensors")


def write(
    plan: Plan,
    checkpoint: Checkpoint,
    output: Path,
    max_shard_size: int,
    memory_limit: int,
    progress: Callable[[Plan], Progress] | None = None,
) -> Report:
    """Carry out a plan. Raises TFReaderError; then nothing has been written."""
    is_torch = output.suffix in TORCH_SUFFIXES
    is_folder = is_folder_output(output)
    if output.is_file() and output.resolve() == Path(plan.path).resolve():
        raise OutputError(f"{output}: is the checkpoint itself; name another output")
    side = _side_files(plan, checkpoint) if is_folder else SideFiles({})
    if is_torch:
        torch_writer.check_torch(plan.entries)
    else:
        safetensors.layout(plan.entries)
    checkpoint.check_shards(_sources(plan))

    with staged(output, is_folder) as stage:
        advance = progress(plan) if progress else lambda _: None
        if is_torch:
            path = stage / output.name
            with closing(torch_writer.TorchFile(path, plan.entries, plan.ties)) as file:
                stream(plan, checkpoint, file.write, advance, memory_limit)
                file.finish()
        else:
            files = [list(plan.entries)]
            names = [output.name]
            if is_folder:
                files = safetensors.shards(plan.entries, max_shard_size)
                names = safetensors.shard_names(len(files))
            _write_safetensors(plan, checkpoint, stage, files, names, advance, memory_limit)
            if len(files) > 1:
                index = safetensors.index_json(files, names)
                (stage / "model.safetensors.index.json").write_bytes(index)
            for name, contents in side.contents.items():
                (stage / name).write_bytes(contents)
        written = sorted(file.name for file in stage.iterdir())
    folder = output if is_folder else output.parent
    return Report(
        plan,
        str(output),
        tuple(str(folder / name) for name in written),
        (*plan.notes, *side.notes),
    )


def _side_files(plan: Plan, checkpoint: Checkpoint) -> SideFiles:
    """config.json and the tokenizer's files."""
    if plan.family is None or plan.config is None:
        return SideFiles({}, ("no family is known: no config.json written",))
    check_config(plan)
    beside = Beside.of(plan.path, plan.config_path)
    tokenizer = plan.family.side_files(checkpoint, beside, plan.config)
    try:
        config = json.dumps(dict(sorted(plan.config.items())), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise ConfigError(f"{plan.config_path or 'config'}: no JSON can hold it: {error}") from None
    contents = {**tokenizer.contents, "config.json": config.encode()}
    return SideFiles(contents, tokenizer.notes)


def check_config(plan: Plan) -> None:
    """Raise ConfigError where the plan's config lacks what config.json cannot do without."""
    assert plan.family is not None and plan.config is not None
    for key in plan.family.needs:
        if plan.config.get(key) is None:
            files = " or ".join(plan.family.config_files)
            raise ConfigError(
                f"{plan.path}: config.json needs {key}, which no shape tells\n"
                f"Pass {f'--config {files}, or ' if files else ''}--set {key}=N"
            )


def _write_safetensors(
    plan: Plan,
    checkpoint: Checkpoint,
    stage: Path,
    files: Sequence[Sequence[Entry]],
    names: Sequence[str],
    progress: Progress,
    memory_limit: int,
) -> None:
    with ExitStack() as stack:
        home = {}
        for entries, name in zip(files, names, strict=True):
            file = stack.enter_context(closing(safetensors.SafetensorsFile(stage / name, entries)))
            home.update(dict.fromkeys((entry.target for entry in entries), file))
        stream(
            plan,
            checkpoint,
            lambda entry, offset, data: home[entry.target].write(entry, offset, data),
            progress,
            memory_limit,
        )


def _sources(plan: Plan) -> list[str]:
    return [name for entry in plan.entries for name in entry.sources]
