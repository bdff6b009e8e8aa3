"""How long an index of 200,000 variables takes to list, against TensorFlow's own C++ reader.

    python benchmarks/list_variables.py [--tensorflow PYTHON]

PYTHON is an interpreter that has tensorflow-cpu. Imports are not counted on either side. Each
reader runs in a process of its own; the figures are medians.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bundle_writer import entry, header, table

COUNT = 200_000
MEASURE = """
import resource, statistics, sys, time
{setup}
times = []
for _ in range({rounds}):
    start = time.perf_counter()
    {body}
    times.append(time.perf_counter() - start)
    assert len(listed) == {count}
    del listed
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(statistics.median(times), memory)
"""
OURS = (
    "import tfreader",
    "listed = [(i.name, i.dtype, i.shape) for i in tfreader.open(sys.argv[1]).infos]",
)
TENSORFLOW = (
    "import tensorflow as tf",
    "listed = tf.train.load_checkpoint(sys.argv[1]).get_variable_to_shape_map()",
)


def write_index(prefix: Path) -> None:
    value = np.zeros(4, np.float32)
    names = (
        f"encoder/layer_{i // 16}/block_{i % 16}/attention/dense/kernel_{i}" for i in range(COUNT)
    )
    entries = [(name.encode(), entry(value, offset=0)) for name in sorted(names)]
    Path(f"{prefix}.index").write_bytes(table([(b"", header()), *entries]))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(bytes(16))


def measure(python: str, reader: tuple[str, str], prefix: Path, rounds: int) -> tuple[float, int]:
    """Median seconds and the peak of memory in MB."""
    setup, body = reader
    script = MEASURE.format(setup=setup, body=body, count=COUNT, rounds=rounds)
    run = subprocess.run(
        [python, "-c", script, str(prefix)], check=True, capture_output=True, text=True
    )
    seconds, memory = run.stdout.split()[-2:]
    return float(seconds), int(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensorflow", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "model.ckpt"
        write_index(prefix)
        ours, memory = measure(sys.executable, OURS, prefix, arguments.rounds)
        print(f"tfreader    {ours:.2f} s, {memory} MB")
        if arguments.tensorflow:
            theirs, memory = measure(arguments.tensorflow, TENSORFLOW, prefix, arguments.rounds)
            print(f"TensorFlow  {theirs:.2f} s, {memory} MB; ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
