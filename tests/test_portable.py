"""macOS and Windows: the main jobs on a Python that lacks what they lack, and paths as theirs.

`system/sitecustomize.py` takes away names and, for Windows, lets nothing be renamed or removed that
is open. On those systems themselves the same jobs run as they are.
"""

from __future__ import annotations

import errno
import json
import nturl2path
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from unicodedata import normalize

import numpy as np
import pytest
import yaml
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS, ROOT

import tfreader
import tfreader.mapping.batch
from tfreader import paths, system
from tfreader.cli.main import main
from tfreader.files import LocalFile
from tfreader.mapping import convert
from tfreader.mapping.records.manifest import RECORD, load
from tfreader.sharded import read_index

SYSTEMS = ["macos", "windows"] if sys.platform == "linux" else ["this"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
CAUSAL = DATA / "xlm" / "causal"
CLASSIFIER = ROOT / "examples" / "tf-classifier"


class Machine:
    """Runs commands as on a system, in a folder; what they leave in TMPDIR is in `temporary`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        # Every file that is text is opened with its encoding, which on Windows may be any.
        warned = {"PYTHONWARNDEFAULTENCODING": "1", "PYTHONWARNINGS": "error::EncodingWarning"}
        self._environment = os.environ | warned
        self._environment |= {"SYSTEM": name, "TMPDIR": str(self.temporary)}
        if name != "this":
            self._environment["PYTHONPATH"] = str(ROOT / "tests" / "system")

    def python(self, *arguments: object, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=self._environment,
            cwd=self.folder,
            start_new_session=True,  # what another session has open is nobody's business
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def tfreader(self, *arguments: object, code: int = 0) -> str:
        return self.python("-m", "tfreader", *arguments, code=code)

    def convert(self, checkpoint: object, output: object, *options: object, code: int = 0) -> str:
        paths = "--tf_checkpoint", checkpoint, "--pytorch_dump_output", output
        return self.tfreader("convert", *paths, *options, code=code)


@pytest.fixture(params=SYSTEMS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(request.param, tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    """All that lies below a folder; the record without where the checkpoint was."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


def test_inspect_plan_convert_and_verify(machine, tmp_path):
    shown = machine.tfreader("inspect", BERT, "--filter", "pooler")
    assert "bert/pooler/dense/kernel  float32  [24, 24]" in shown
    machine.convert(BERT, "out", "--dry-run")
    assert os.listdir(tmp_path) == ["temporary"]
    machine.convert(BERT, "out")
    convert(BERT, tmp_path / "expected")
    assert files(tmp_path / "out") == files(tmp_path / "expected")
    machine.convert(BERT, "out", "--max-shard-size", "20KB")  # in place of what lies there
    convert(BERT, tmp_path / "expected", max_shard_size="20KB")
    assert files(tmp_path / "out") == files(tmp_path / "expected")
    said = machine.tfreader("verify", "out", "--against", BERT)
    assert "46 equal: the model is what the checkpoint gives" in said
    machine.convert(BERT, "one.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["expected", "one.safetensors", "out", "temporary"]
    assert not os.listdir(machine.temporary)


def test_hdf5_and_an_archive_that_is_unpacked(machine, tmp_path):
    machine.convert(CLASSIFIER, "out")
    convert(CLASSIFIER, tmp_path / "expected")
    assert files(tmp_path / "out") == files(tmp_path / "expected")
    with (
        zipfile.ZipFile(DATA / "keras" / "model3.keras") as stored,
        zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    packed, stored = (
        json.loads(machine.tfreader("inspect", path, "--json"))
        for path in ("model.keras", DATA / "keras" / "model3.keras")
    )
    assert packed == {**stored, "path": "model.keras"}
    assert not os.listdir(machine.temporary)


def test_torch_files_are_read_and_written(machine, tmp_path):
    machine.convert(CAUSAL, "out/m.bin")
    convert(CAUSAL, tmp_path / "expected" / "m.bin")
    assert files(tmp_path / "out") == files(tmp_path / "expected")
    machine.convert(CAUSAL, "out/m.bin")  # once more, in place of itself
    assert files(tmp_path / "out") == files(tmp_path / "expected")
    assert not os.listdir(machine.temporary)


def test_what_lies_behind_a_url(machine, web, tmp_path):
    for folder in (BERT, CAUSAL):
        (web.folder / folder.name).mkdir()
        for file in folder.iterdir():
            (web.folder / folder.name / file.name).write_bytes(file.read_bytes())
    for folder, name in ((BERT, "bert_model.ckpt"), (CAUSAL, next(CAUSAL.glob("*.pth")).name)):
        machine.convert(f"{web.url}/{folder.name}/{name}", f"out-{folder.name}")
        convert(folder, tmp_path / f"expected-{folder.name}")
        weights = [tmp_path / f"{which}-{folder.name}" for which in ("out", "expected")]
        a, b = ((path / "model.safetensors").read_bytes() for path in weights)
        assert a == b
    assert not os.listdir(machine.temporary)


def test_a_batch_with_workers_goes_on_where_it_was(machine, tmp_path):
    for name in ("a", "b", "c"):
        source = tmp_path / "in" / name
        source.mkdir(parents=True)
        for file in BERT.iterdir():
            (source / file.name).write_bytes(file.read_bytes())
    command = ["batch", "--glob", "in/**/*.index", "--output-root", "out", "--jobs", "2"]
    said = machine.tfreader(*command, "--report", "report.json", "--max-shard-size", "20KB")
    assert "3 done" in said
    assert "3 skipped" in machine.tfreader(*command, "--max-shard-size", "20KB")
    assert "3 done" in machine.tfreader(*command, "--force")  # in place of shards
    convert(BERT, tmp_path / "expected")
    for name in ("a", "b", "c"):
        assert files(tmp_path / "out" / name / "bert_model.ckpt") == files(tmp_path / "expected")
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["done"] == 3
    assert not os.listdir(machine.temporary)


KILLED = """
import os, sys
from tfreader.mapping import convert
convert(sys.argv[1], "out", progress=lambda plan: lambda count: os._exit(9))
"""


def test_what_a_killed_conversion_left_goes(machine, tmp_path):
    machine.python("-c", KILLED, BERT, code=9)
    left = set(os.listdir(tmp_path)) - {"temporary"}
    assert {Path(name).suffix for name in left} == {".tmp", ".lock"}
    machine.convert(BERT, "out")
    assert set(os.listdir(tmp_path)) == {"out", "temporary"}


TOGETHER = """
import sys
from multiprocessing import get_context
from tfreader.mapping import convert

if __name__ == "__main__":
    with get_context("spawn").Pool(3) as pool:
        sizes = ["20KB", "30KB", "1GB"] * 5
        for done in [pool.apply_async(convert, (sys.argv[1], "out"), {"max_shard_size": size})
                     for size in sizes]:
            done.get()
"""


def test_conversions_to_one_place_come_one_after_the_other(machine, tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    machine.python("together.py", BERT)
    machine.tfreader("verify", "out")
    assert set(os.listdir(tmp_path)) == {"out", "temporary", "together.py"}
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


HELD = """
import sys
from tfreader import OutputError
from tfreader.mapping import convert
with open("out/model.safetensors", "rb"):
    try:
        convert(sys.argv[1], "out", dtype="float16")
    except OutputError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS renames what is open")
def test_an_output_that_another_program_has_open_stays_as_it_was(tmp_path):
    machine = Machine("windows" if sys.platform == "linux" else "this", tmp_path)
    machine.convert(BERT, "out")
    before = files(tmp_path / "out")
    said = machine.python("-c", HELD, BERT)
    assert "cannot be written" in said
    assert files(tmp_path / "out") == before
    assert set(os.listdir(tmp_path)) == {"out", "temporary"}
    machine.tfreader("verify", "out")


@pytest.mark.parametrize("names", [("preadv",), ("preadv", "pread", "pwrite", "posix_fallocate")])
def test_threads_read_and_write_at_offsets_of_one_descriptor(tmp_path, monkeypatch, names):
    for name in names:
        monkeypatch.delattr(os, name, raising=False)
    data = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes()
    step = 1 << 12
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | system.BINARY)
    system.allocate(fd, len(data))

    def write(offset):
        system.write_at(fd, memoryview(data)[offset : offset + step], offset)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(0, len(data), step)))
        assert path.read_bytes() == data
        file = LocalFile(str(path))
        parts = list(pool.map(lambda start: bytes(file.read(start, step)), range(0, 1 << 20, step)))
    assert b"".join(parts) == data
    os.close(fd)
    with pytest.raises(tfreader.CorruptCheckpointError, match="truncated"):
        file.read(len(data) - 1, 2)
    file.close()


def test_a_file_that_a_scanner_looks_at_is_moved_a_moment_later(tmp_path, monkeypatch):
    replace, tried = os.replace, []

    def busy(source, target):
        tried.append(source)
        if len(tried) < 3:
            error = PermissionError(13, "in use")
            error.winerror = 32
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(system, "PAUSES", (0, 0, 0))
    convert(BERT, tmp_path / "out")
    assert len(tried) == 3
    monkeypatch.setattr(os, "replace", lambda *_: os.mkdir(tmp_path / "no" / "such"))
    with pytest.raises(FileNotFoundError):
        system.replace(tmp_path / "out", tmp_path / "other")


def test_a_file_system_that_cannot_allocate_is_written_to(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    convert(BERT, tmp_path / "out.safetensors")
    monkeypatch.undo()
    convert(BERT, tmp_path / "expected.safetensors")
    first, second = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("out", "expected"))
    assert first == second


def test_a_pool_on_windows_has_no_more_processes_than_it_may(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    assert system.most_processes() == 61


def test_processors_are_counted_where_none_can_be_chosen(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert system.processors() == os.cpu_count()


@pytest.mark.parametrize(
    ("url", "windows", "here"),
    [
        ("file:///C:/models/my%20bert", r"C:\models\my bert", None),
        ("file://localhost/C:/models", r"C:\models", None),
        ("file://server/share/bert", r"\\server\share\bert", None),
        ("file:///models/my%20bert", None, "/models/my bert"),
        ("file://localhost/models", None, "/models"),
    ],
)
def test_file_urls(monkeypatch, url, windows, here):
    if windows is not None:
        monkeypatch.setattr(urllib.request, "url2pathname", nturl2path.url2pathname)
        monkeypatch.setattr(os, "name", "nt")
    assert paths.path_of(url) == (windows or here)


@pytest.mark.skipif(os.name == "nt", reason="Windows reads it")
def test_a_file_url_of_another_machine_is_not_a_path_here():
    with pytest.raises(tfreader.UnsupportedError, match="server; mount it"):
        tfreader.open("file://server/share/bert")


@pytest.mark.parametrize("path", [r"C:\models\bert", "C:/models/bert", "C://models/bert", "c:bert"])
def test_drives_are_no_urls(path):
    assert not paths.is_url(path)


def test_urls_get_no_backslash(monkeypatch):
    import ntpath

    monkeypatch.setattr(os, "path", ntpath)
    assert paths.join("s3://models/bert", "x", "y.index") == "s3://models/bert/x/y.index"
    assert paths.join(r"C:\models", "y.index") == r"C:\models\y.index"
    monkeypatch.setattr(os, "sep", "\\")
    assert paths.slashes(r"C:\models\**\*.index") == "C:/models/**/*.index"
    assert paths.slashes("s3://models/a\\b") == "s3://models/a\\b"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", r"a\b", r"..\b", "C:b", r"C:\b", r"\\server\share\b", "a\0"]
)
def test_names_from_files_lead_nowhere_else_on_any_system(tmp_path, name):
    assert not paths.is_name(name)
    with pytest.raises(ValueError, match="no file beside the index"):
        read_index(json.dumps({"weight_map": {"w:0": name}}).encode())
    convert(BERT, tmp_path / "out")
    record = json.loads((tmp_path / "out" / RECORD).read_text("utf-8"))
    record["files"][name] = {"size": 1}
    (tmp_path / "out" / RECORD).write_text(json.dumps(record), "utf-8")
    with pytest.raises(tfreader.CorruptCheckpointError, match="not the record of a conversion"):
        load(tmp_path / "out" / RECORD)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("out/aux", "aux"),
        ("NUL.safetensors", "NUL.safetensors"),
        ("out/com1.bin", "com1.bin"),
        ("models/bert:base/out", "bert:base"),
        (r"C:\out\what?", "what?"),
        ("out./model", "out."),
        ("out /model", "out "),
        (r"C:\models\bert-base", None),
        (r"\\server\share\bert", None),
        ("../com/auxiliary/console.bin", None),
    ],
)
def test_names_that_windows_has_not(path, part):
    assert paths.impossible_name(PureWindowsPath(path)) == part
    assert paths.impossible_name(PurePosixPath(path)) is None


def test_places_that_differ_by_case_alone_are_one_on_macos(monkeypatch):
    spellings = "out/Modèle", normalize("NFD", "out/modèle")
    if sys.platform == "linux":
        assert len(set(map(paths.place, spellings))) == 2
    monkeypatch.setattr(sys, "platform", "darwin")
    assert len(set(map(paths.place, spellings))) == 1


def test_no_output_lies_over_its_checkpoint_where_case_tells_no_names_apart(tmp_path, monkeypatch):
    for name in ("bert", "BERT"):
        shutil.copytree(BERT, tmp_path / name, dirs_exist_ok=True)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(tfreader.OutputError, match="is the checkpoint itself"):
        convert(tmp_path / "bert", tmp_path / "BERT")
    (tmp_path / "out").mkdir()
    shutil.copy(BERT / "bert_config.json", tmp_path / "out" / "Config.json")
    with pytest.raises(tfreader.OutputError, match="was read for this conversion"):
        convert(BERT, tmp_path / "out", config=tmp_path / "out" / "Config.json")


TREE = {
    "C:/in": [("a", True), ("b", True)],
    "C:/in/a": [("m.ckpt.index", False), ("m.ckpt.data-00000-of-00001", False)],
    "C:/in/b": [("saved_model.pb", False), ("variables", True)],
    "C:/in/b/variables": [("variables.index", False), ("variables.data-00000-of-00001", False)],
}


@pytest.mark.skipif(os.name == "nt", reason="there it is no simulation")
def test_a_folder_of_windows_has_its_outputs_below_the_root_of_outputs(monkeypatch):
    import ntpath

    from tfreader.cli import batch, jobs

    monkeypatch.setattr(os, "path", ntpath)
    monkeypatch.setattr(os, "sep", "\\")
    monkeypatch.setattr(os, "getcwd", lambda: "C:\\here")
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(
        sys.modules["tfreader.mapping.batch.scan"], "entries", lambda folder: TREE[folder]
    )
    monkeypatch.setattr(jobs, "given_flags", lambda _: {})
    monkeypatch.setattr(batch, "is_dir", lambda _: True)
    monkeypatch.setattr(batch, "absolute", lambda path: path)
    found, root = batch._jobs(None, ("C:\\in\\",), (), "out", print)
    assert root == "C:/in"
    assert {job.tf_checkpoint: ntpath.normpath(job.pytorch_dump_output) for job in found} == {
        "C:/in/a/m.ckpt": r"C:\here\out\a\m.ckpt",
        "C:/in/b/variables/variables": r"C:\here\out\b",
    }


def test_a_scan_follows_a_link_to_another_drive(monkeypatch):
    import ntpath

    scan = sys.modules["tfreader.mapping.batch.scan"]
    monkeypatch.setattr(scan, "Path", PureWindowsPath)
    monkeypatch.setattr(os, "path", ntpath)
    assert scan._leads_out(r"D:\models", r"C:\in")
    assert not scan._leads_out(r"c:\In\b", r"C:\in")


def test_a_junction_is_a_link(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "isjunction", lambda path: "loop" in path, raising=False)
    (tmp_path / "a" / "loop").mkdir(parents=True)
    (tmp_path / "a" / "loop" / "x").touch()
    passed_over: list[str] = []
    assert paths.glob(f"{tmp_path}/**/x", passed_over.append) == []
    assert passed_over == [f"{tmp_path}/a/loop"]


@pytest.mark.parametrize("path", ["é:", "é:bert", r"\\é\share", r"\\é\share\bert"])
def test_a_drive_that_is_not_there_is_no_place_to_look_for_names(monkeypatch, path):
    import ntpath

    monkeypatch.setattr(os, "path", ntpath)
    assert paths.as_there(path) == path


@pytest.mark.parametrize(
    ("word", "typed"),
    [
        (r"C:\models\bert", r"C:\models\bert"),
        ("C:\\my models\\", '"C:\\my models\\\\"'),
        ('id2label=["a", "b"]', r'''"id2label=[\"a\", \"b\"]"'''),
        ("h5py>=3.8", '"h5py>=3.8"'),
        ("(a|b).*", '"(a|b).*"'),
        ("", '""'),
    ],
)
def test_commands_that_are_told_have_the_quotes_of_the_system(monkeypatch, word, typed):
    assert shlex.split(system.quoted("tfreader", word)) == ["tfreader", word]
    monkeypatch.setattr(os, "name", "nt")
    assert system.quoted("tfreader", word) == f"tfreader {typed}"


@pytest.mark.parametrize(
    ("seconds", "modified"),
    [
        (300 * 10**9, "11476-08-15T05:20:00.000000005Z"),
        (-(10**9), "1938-04-24T22:13:20.000000005Z"),
    ],
)
def test_files_of_any_year_are_read(tmp_path, monkeypatch, seconds, modified):
    folder = tmp_path / "bert"
    shutil.copytree(BERT, folder)
    real = os.fstat

    def dated(fd):
        found = real(fd)
        return types.SimpleNamespace(
            **{key: getattr(found, key) for key in dir(found) if key.startswith("st_")}
            | {"st_mtime_ns": seconds * 10**9 + 5}
        )

    monkeypatch.setattr(os, "fstat", dated)
    file = LocalFile(str(folder / "bert_model.ckpt.index"))
    assert file.source.modified == modified


def test_int64_values_that_a_double_cannot_tell_apart_differ(tmp_path, monkeypatch):
    from tfreader.differences import differences
    from tfreader.statistics import Statistics

    monkeypatch.setattr(np, "longdouble", np.float64)  # as it is on Windows, and on Apple's ARM
    near = np.array([2**62, 2**62 + 1])
    for name, values in (("a", near), ("b", near[::-1].copy())):
        write_bundle(tmp_path / name, {"v": values})
    with tfreader.open(tmp_path / "a") as a, tfreader.open(tmp_path / "b") as b:
        (found,) = differences(a, b)
        assert found.kinds == ["values"]
        assert found.values.different == 2
        (found,) = differences(a, b, atol=1)
        assert not found.kinds
    stats = Statistics()
    stats.add(np.array([1e300, -1e300]))
    assert (stats.mean, stats.std) == (0, None)


def test_what_is_to_outlive_a_power_cut_leaves_the_cache_of_the_drive_on_macos(
    tmp_path, monkeypatch
):
    flushed = []
    fcntl = types.SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda fd, what: flushed.append(what))
    monkeypatch.setitem(sys.modules, "fcntl", fcntl)
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "file").touch()
    system.sync(tmp_path / "file")
    assert flushed == [51]


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_names_in_either_of_unicodes_forms(tmp_path, stored, asked):
    """Typed they are NFC; in an archive from a Mac, or listed by one, NFD."""
    folder = tmp_path / normalize(stored, "modèles")
    prefix = write_bundle(folder / normalize(stored, "réseau.ckpt-1"), {"a": np.ones(2)})
    (folder / normalize(stored, "règles.toml")).write_text(
        '[[rule]]\nsource = "a"\ntarget = "a"\n', "utf-8"
    )
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{normalize(asked, "réseau.ckpt-1")}"\n', "utf-8"
    )
    given = tmp_path / normalize(asked, "modèles")
    for name in ("réseau.ckpt-1", "réseau.ckpt-1.index", ""):
        with tfreader.open(given / normalize(asked, name)) as checkpoint:
            assert checkpoint.path == str(prefix)
            assert not checkpoint.notes
    rules = given / normalize(asked, "règles.toml")
    convert(given, tmp_path / "out.safetensors", rules=rules)
    (v1,) = {normalize(stored, "réseau")}
    for file in (DATA / "v1").glob("model.ckpt-*-of-00002"):
        name = file.name.replace("model.ckpt", v1)
        (folder / name).write_bytes(file.read_bytes())
    with tfreader.open(given / normalize(asked, "réseau")) as checkpoint:
        assert checkpoint.format == "v1"


@pytest.mark.skipif(sys.platform != "linux", reason="there it is one name")
def test_of_two_names_that_look_alike_the_one_that_was_given_is_read(tmp_path):
    for number, form in enumerate(("NFC", "NFD")):
        write_bundle(tmp_path / normalize(form, "é"), {"a": np.full(2, number)})
    for number, form in enumerate(("NFC", "NFD")):
        with tfreader.open(tmp_path / normalize(form, "é")) as checkpoint:
            assert checkpoint["a"][0] == number


def test_a_state_file_of_another_drive_is_a_hint(tmp_path):
    write_bundle(tmp_path / "model.ckpt-2", {"a": np.ones(2)})
    (tmp_path / "checkpoint").write_text(
        r'model_checkpoint_path: "D:\\runs\\bert\\model.ckpt-2"', "utf-8"
    )
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "model.ckpt-2")
        assert "beside it" in checkpoint.notes[0]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_state_file_of_an_editor_of_windows(tmp_path, mark):
    for number in (1, 2):
        write_bundle(tmp_path / f"model.ckpt-{number}", {"a": np.ones(2)})
    text = f'{mark}model_checkpoint_path: "model.ckpt-1"\r\n'
    (tmp_path / "checkpoint").write_bytes(text.encode())
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "model.ckpt-1")
        assert not checkpoint.notes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.jsonl", r'{"tf_checkpoint": "C:\models\bert", "pytorch_dump_output": "out"}'),
        ("jobs.toml", '[[job]]\ntf_checkpoint = "C:\\models\\bert"\npytorch_dump_output = "out"\n'),
    ],
)
def test_jobs_with_single_backslashes_are_told_how_to_write_paths(tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    result = CliRunner().invoke(main, ["batch", str(tmp_path / name)])
    assert result.exit_code == 2
    assert "write / in paths, which Windows takes too" in result.output
    (tmp_path / name).write_text(text.replace("\\", "/"), "utf-8")
    result = CliRunner().invoke(main, ["batch", str(tmp_path / name), "--log-json"])
    assert result.exit_code == 1
    assert "C:/models/bert" in result.output


@pytest.mark.skipif(not WORKFLOW.exists(), reason="no clone")
def test_the_hosted_matrix_has_every_system():
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    linux, others = workflow["jobs"]["linux"], workflow["jobs"]["systems"]
    assert linux["runs-on"] == "ubuntu-latest"
    matrix = others["strategy"]["matrix"]
    assert matrix["os"] == ["macos-latest", "windows-latest"]
    assert matrix["python"] == linux["strategy"]["matrix"]["python"]
    assert matrix["libraries"] == ["newest", "lowest"]
    for named in re.findall(r"tests/\w+\.py", str(others)):
        assert (ROOT / named).is_file(), named


def test_the_rules_of_a_keras_model_work_from_any_folder(machine):
    machine.convert(KERAS, "keras.safetensors", "--rules", KERAS / "rules.toml")
