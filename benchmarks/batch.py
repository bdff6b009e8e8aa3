"""A batch against the same conversions one by one: time, memory, and kills.

    python benchmarks/batch.py [CHECKPOINT ...] [--jobs 500] [--kills 10]

The checkpoints (by default the tests' own) are converted in turn until there are so many jobs. The
loop runs `tfreader convert` once for each of a sample of them. The ideal split is what all jobs
took by themselves, in the batch's own report, divided by the workers. Memory is the sum of the
processes' proportional shares, sampled. A kill is SIGKILL to all processes at a random moment; then
the batch is started again, until it ends, and the outputs are compared with those of an undisturbed
run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
TFREADER = Path(sys.executable).parent / "tfreader"
OURS = [
    ROOT / "examples" / "bert-tiny",
    *(DATA / name for name in ("classifier", "squad", "encoder", "gpt2")),
    *(DATA / "albert" / name for name in ("hub", "pretraining")),
    *(DATA / "t5" / name for name in ("shared", "v10", "v11")),
    *(DATA / "transfo_xl" / name for name in ("chars", "lm1b", "wt103")),
    DATA / "xlm" / "causal",
]
SAMPLE = 50  # conversions of the loop
WORKERS = 2


def proportional_memory(session: int) -> int:
    """Bytes of all processes of a session, memory that they share counted once."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                (line,) = (
                    line
                    for line in (process / "smaps_rollup").read_text().splitlines()
                    if line.startswith("Pss:")
                )
                total += int(line.split()[1]) * 1024
        except (OSError, ValueError):
            continue  # it has ended
    return total


def batch(jobs: Path, *options: str) -> tuple[float, int]:
    """Seconds and peak memory in bytes of a batch."""
    os.sync()
    start = time.perf_counter()
    command = [str(TFREADER), "batch", str(jobs), "--quiet", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    peak = 0
    while process.poll() is None:
        if "--memory-limit" in options:  # sampling costs time
            peak = max(peak, proportional_memory(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, peak


def killed(jobs: Path, seconds: float) -> None:
    """A batch that is killed, with its workers, after so many seconds."""
    command = [str(TFREADER), "batch", str(jobs), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path, default=OURS)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--memory-limit", default="500MB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs, out = Path(folder) / "jobs.jsonl", Path(folder) / "out"
        report = Path(folder) / "report.json"
        sources = [str(path.resolve()) for path in options.checkpoints]
        rows = [
            {"tf_checkpoint": sources[i % len(sources)], "pytorch_dump_output": f"out/{i}"}
            for i in range(options.jobs)
        ]
        jobs.write_text("".join(json.dumps(row) + "\n" for row in rows))

        times, ratios = [], []
        for _ in range(options.rounds):
            shutil.rmtree(out, ignore_errors=True)
            took, _ = batch(jobs, "--report", str(report), "--jobs", str(WORKERS))
            outcomes = json.loads(report.read_text())["outcomes"]
            times.append(took)
            ratios.append(took / (sum(o["seconds"] for o in outcomes) / WORKERS))
        undisturbed = tree(out)
        again, _ = batch(jobs)
        shutil.rmtree(out)

        sample = rows[:: max(1, len(rows) // SAMPLE)]
        start = time.perf_counter()
        for i, row in enumerate(sample):
            command = [str(TFREADER), "convert", "--quiet", "--tf_checkpoint", row["tf_checkpoint"]]
            output = f"{folder}/loop/{i}"
            subprocess.run([*command, "--pytorch_dump_output", output], check=True)
        loop = (time.perf_counter() - start) * len(rows) / len(sample)
        _, memory = batch(jobs, "--memory-limit", options.memory_limit)

        took = statistics.median(times)
        print("| work | result |\n| --- | --- |")
        print(
            f"| {len(rows)} jobs of {len(sources)} checkpoints, {WORKERS} workers | {took:.1f} s |"
        )
        print(f"| of the same in a loop | {took / loop:.3f} |")
        print(f"| of the ideal split | {statistics.median(ratios):.2f} |")
        print(f"| once more, all done | {again:.1f} s |")
        print(f"| memory under a limit of {options.memory_limit} | {memory / 1e6:.0f} MB |")

        if options.kills:
            shutil.rmtree(out)
            moments = random.Random(0)
            for _ in range(options.kills):
                killed(jobs, moments.uniform(0.3, took))
            batch(jobs)
            same = "equal" if tree(out) == undisturbed else "DIFFERENT"
            print(f"| outputs after {options.kills} kills | {same} |")


if __name__ == "__main__":
    main()
