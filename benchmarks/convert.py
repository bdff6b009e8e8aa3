"""Conversions against `cp` of the same bytes, and against TensorFlow and the old converters.

    make bench [ARGS="--rounds 5 --large --tensorflow PYTHON"]

Every command is a whole process, from start to exit, on files in the page cache. A round runs
each of them once; the table has the medians of all rounds. PYTHON is an interpreter with
tensorflow-cpu 2.15 and transformers 4.30. `--large` adds 11 GB of T5-3B's shape, 12 GB of
RemBERT's with slots, and 3 GB of T5-large's as Keras stores it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

BIN = Path(sys.executable).parent
EXAMPLE = Path(__file__).parent.parent / "examples" / "bert-tiny"
LIST = "import sys, tensorflow as tf; tf.train.list_variables(sys.argv[1])"
READ = (
    "import sys, tensorflow as tf; r = tf.train.load_checkpoint(sys.argv[1]); "
    "[r.get_tensor(n) for n in r.get_variable_to_shape_map()]"
)
OLD = (
    "import sys; from transformers.models.bert.convert_bert_original_tf_checkpoint_to_pytorch "
    "import convert_tf_checkpoint_to_pytorch as convert; convert(*sys.argv[1:])"
)
FROM_TF = (
    "import sys; from transformers import BertForSequenceClassification as Model; "
    "Model.from_pretrained(sys.argv[1], from_tf=True).save_pretrained(sys.argv[2])"
)


def make(name: str, folder: Path) -> Path:
    """The prefix of a checkpoint; a process of its own makes it, so that this one stays small."""
    script = Path(__file__).with_name("inputs.py")
    made = subprocess.run(
        [sys.executable, str(script), name, str(folder)], check=True, capture_output=True, text=True
    )
    return Path(made.stdout.strip())


@dataclass
class Work:
    """A command, and the bytes whose copy it is measured against."""

    name: str
    command: list[str]
    copied: str | None = None


def convert(prefix: Path, output: Path, *options: str) -> list[str]:
    command = [str(BIN / "tfreader"), "convert", "--quiet", *options]
    return [*command, "--tf_checkpoint", str(prefix), "--pytorch_dump_output", str(output)]


def works(folder: Path, out: Path, large: bool, tensorflow: str | None) -> list[Work]:
    names = (
        "bert-base",
        "bert-large",
        "bert-base-adam",
        "many",
        *(("t5-3b", "rembert") if large else ()),
    )
    of_keras = ("hf-bert-base", *(("hf-t5-large",) if large else ()))
    prefix = {name: make(name, folder) for name in (*names, *of_keras)}
    file = out / "model.safetensors"
    copied = {name: f"{prefix[name]}.data-00000-of-00001" for name in names}
    copied |= {name: str(prefix[name]) for name in of_keras}
    found = [
        Work(f"`cp` of {name}", ["cp", source, str(out / "copy")])
        for name, source in copied.items()
        if name not in ("bert-base-adam", "many", "rembert")
    ]
    for name in ("bert-large", "bert-base", *(("t5-3b",) if large else ())):
        found.append(Work(f"{name} → safetensors", convert(prefix[name], file), name))
    if large:
        found.append(Work("rembert of 12 GB → safetensors", convert(prefix["rembert"], file)))
    adam = convert(prefix["bert-base-adam"], file)
    found.append(Work("bert-base with Adam slots → safetensors", adam, "bert-base"))
    shards = convert(prefix["bert-large"], out / "folder", "--max-shard-size", "300MB")
    found.append(Work("bert-large → folder, 5 shards", shards, "bert-large"))
    hashed = [*shards, "--checksum", "sha256"]
    found.append(Work("bert-large → folder, 5 shards, SHA-256", hashed, "bert-large"))
    for dtype in ("float16", "bfloat16"):
        cast = convert(prefix["bert-large"], file, "--dtype", dtype)
        found.append(Work(f"bert-large → {dtype} safetensors", cast, "bert-large"))
    binary = convert(prefix["bert-large"], out / "model.bin")
    found.append(Work("bert-large → .bin", binary, "bert-large"))
    for name in of_keras:
        h5 = convert(prefix[name], out / "folder")
        found.append(Work(f"{name} (tf_model.h5) → folder", h5, name))
    tfreader = str(BIN / "tfreader")
    found += [
        Work("bert-tiny → folder", convert(EXAMPLE, out / "folder", "--model_type", "bert")),
        Work("`inspect` of bert-base", [tfreader, "inspect", str(prefix["bert-base"])]),
        Work(
            "`verify` of bert-large", [tfreader, "verify", str(prefix["bert-large"])], "bert-large"
        ),
        Work(
            "200,000 variables → safetensors",
            convert(prefix["many"], file, "--rules", str(prefix["many"].with_name("rules.toml"))),
        ),
        Work("`python -c 'import numpy'`", [sys.executable, "-c", "import numpy"]),
        Work("`python -c 'import torch'`", [sys.executable, "-c", "import torch"]),
    ]
    if tensorflow:
        base = str(prefix["bert-base"])
        old = [base, str(prefix["bert-base"].with_name("bert_config.json")), str(out / "old.bin")]
        found += [
            Work("TensorFlow lists bert-base", [tensorflow, "-c", LIST, base]),
            Work("TensorFlow reads bert-base", [tensorflow, "-c", READ, base]),
            Work("old converter, bert-base → .bin", [tensorflow, "-c", OLD, *old]),
            Work(
                "`from_tf=True`, hf-bert-base → folder",
                [tensorflow, "-c", FROM_TF, str(prefix["hf-bert-base"].parent), str(out / "old")],
                "hf-bert-base",
            ),
        ]
    return found


def run(command: list[str]) -> tuple[float, int]:
    """Seconds and the peak of resident memory in MB."""
    os.sync()  # what earlier commands wrote is not written back during this one
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--tensorflow", metavar="PYTHON")
    parser.add_argument("--only", default="", help="works whose name has this in it, and cp")
    options = parser.parse_args()
    # Bytecode is kept, as an installation has it: to compile 90 modules takes 0.1 s.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    out = options.folder / "out"
    wanted = [
        work
        for work in works(options.folder, out, options.large, options.tensorflow)
        if options.only in work.name or work.name.startswith("`cp`")
    ]
    seconds: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[int]] = defaultdict(list)
    for number in range(options.rounds + 1):
        for work in wanted:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            took, peak = run(work.command)
            if number:  # the first round fills the page cache
                seconds[work.name].append(took)
                memory[work.name].append(peak)
    shutil.rmtree(out, ignore_errors=True)
    print("| work | seconds | of `cp` | peak MB |\n| --- | --- | --- | --- |")
    for work in wanted:
        ratios = seconds[work.name]
        if work.copied:
            copies = seconds[f"`cp` of {work.copied}"]
            ratios = [a / b for a, b in zip(ratios, copies, strict=True)]
        ratio = f"{statistics.median(ratios):.2f}" if work.copied else ""
        took, peak = statistics.median(seconds[work.name]), max(memory[work.name])
        print(f"| {work.name} | {took:.2f} | {ratio} | {peak} |")


if __name__ == "__main__":
    main()
