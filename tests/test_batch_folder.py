"""`tfreader batch FOLDER`: every kind of checkpoint is found, what is none is told of, by cause."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS, ROOT, TFREADER
from tf_weights import some_variables, write_h5, write_safetensors, write_sharded

import tfreader
from tfreader.cli.main import main
from tfreader.cli.progress import summary_lines
from tfreader.cli.report import BatchReport
from tfreader.mapping import convert
from tfreader.mapping.batch import Job, Outcome, scan
from tfreader.mapping.family import Beside
from tfreader.mapping.records.audit import verify_against, verify_output
from tfreader.mapping.records.manifest import _without_folders
from tfreader.system import ignores_case

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440000000\n"


def batch(*arguments, code=0):
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def report_of(*arguments, code=0):
    return json.loads(batch(*arguments, "--json", "--quiet", code=code).stdout)


def below(folder, path):
    return os.path.relpath(path, folder)


def test_checkpoints_of_every_kind_are_found(tmp_path):
    root = tmp_path / "models"
    for source, target in {
        BERT: "a/bert",
        DATA / "v1": "v1",
        DATA / "keras3" / "export": "saved",
        DATA / "xlm" / "causal": "xlm",
        DATA / "gpt": "gpt",
        DATA / "keras": "keras",
    }.items():
        shutil.copytree(source, root / target)
    for name in ("hub", "shards", "both"):
        (root / name).mkdir()
    variables = some_variables()
    write_safetensors(root / "hub" / "model.safetensors", variables, {"format": "tf"})
    write_sharded(root / "shards", variables, "h5")
    shutil.copytree(DATA / "keras3" / "export", root / "both" / "saved_model" / "1")
    write_h5(root / "both" / "tf_model.h5", variables)
    found = scan(str(root))
    assert [below(root, path) for path in found.checkpoints] == [
        "a/bert/bert_model.ckpt",
        "both/tf_model.h5",
        "gpt/params",
        "hub/model.safetensors",
        *sorted(
            f"keras/{path.name}" for path in (DATA / "keras").iterdir() if path.suffix != ".npz"
        ),
        "saved/variables/variables",
        "shards/tf_model.h5.index.json",
        "v1/dtypes",
        "v1/model.ckpt",
        "xlm/best-valid_en_clm_ppl.pth",
    ]
    assert [(below(root, path), code) for path, code, _ in found.passed_over] == [
        ("both/saved_model/1/variables/variables.index", "same-model")
    ]


def test_outputs_lie_as_checkpoints_do_and_not_in_one_another(tmp_path):
    """What has the same short name, or would lie in the output of another, gets a longer one."""
    root = tmp_path / "models"
    shutil.copytree(DATA / "keras3" / "export", root / "saved")
    for name in ("saved/more", "one", "two"):
        shutil.copytree(BERT, root / name)
    write_h5(root / "two" / "tf_model.h5", some_variables())
    (root / "two" / "tf_model.index").write_bytes(b"")
    outcomes = report_of(root, "--output-root", tmp_path / "out", "--dry-run", code=1)["outcomes"]
    assert {
        below(root, o["tf_checkpoint"]): below(tmp_path / "out", o["pytorch_dump_output"])
        for o in outcomes
    } == {
        "saved/variables/variables": "saved/variables/variables",
        "saved/more/bert_model.ckpt": "saved/more/bert_model.ckpt",
        "one/bert_model.ckpt": "one/bert_model.ckpt",
        "two/bert_model.ckpt": "two/bert_model.ckpt",
        "two/tf_model": "two/tf_model",
        "two/tf_model.h5": "two/tf_model.h5",
    }


def test_a_folder_called_as_the_checkpoint_beside_it_stops_nothing(tmp_path):
    root = tmp_path / "models"
    shutil.copytree(BERT, root / "bert_model.ckpt")
    shutil.copytree(BERT, root, dirs_exist_ok=True)
    outcomes = report_of(root, "--output-root", tmp_path / "out")["outcomes"]
    outputs = {
        below(root, o["tf_checkpoint"]): below(tmp_path / "out", o["pytorch_dump_output"])
        for o in outcomes
    }
    assert outputs == {
        "bert_model.ckpt": "bert_model.ckpt.index",
        "bert_model.ckpt/bert_model.ckpt": "bert_model.ckpt/bert_model.ckpt",
    }
    assert {o["status"] for o in outcomes} == {"done"}


def test_links_are_followed_out_of_the_folder_and_never_in_circles(tmp_path):
    root = tmp_path / "models"
    shutil.copytree(BERT, tmp_path / "elsewhere" / "bert")
    shutil.copytree(BERT, root / "a")
    for name, target in {
        "b": "../elsewhere",
        "c": "../elsewhere",
        "circle": ".",
        "up": "..",
        "own": "a",
    }.items():
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    found = [below(root, path) for path in scan(str(root)).checkpoints]
    assert len(found) == 2
    assert found[0] == "a/bert_model.ckpt"
    assert re.fullmatch("[bc]/bert/bert_model.ckpt", found[1])


def test_outputs_in_the_folder_are_not_searched(tmp_path):
    shutil.copytree(BERT, tmp_path / "bert")
    for status in ("done", "skipped"):
        report = report_of(tmp_path, "--output-root", tmp_path / "out")
        assert (report["jobs"], report[status]) == (1, 1)


def test_of_the_usual_files_in_a_folder_one_is_taken(tmp_path):
    """As a clone without Git LFS has them: what is a pointer is not what would be converted."""
    variables = some_variables()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_h5(tmp_path / name / "tf_model.h5", variables)
    (tmp_path / "a" / "model.safetensors").write_text(POINTER)
    write_safetensors(tmp_path / "b" / "model.safetensors", variables, {"format": "tf"})
    outcomes = report_of(tmp_path, "--output-root", tmp_path / "out", "--dry-run", code=1)[
        "outcomes"
    ]
    assert {below(tmp_path, o["tf_checkpoint"]): o["status"] for o in outcomes} == {
        "a/tf_model.h5": "failed",  # no model that is known
        "a/model.safetensors": "passed_over",
        "b/model.safetensors": "failed",
        "b/tf_model.h5": "passed_over",
    }


def damaged(root):
    """A folder of models, most of which fail, and of what is none; the good ones' number."""
    shutil.copytree(BERT, root / "good")
    for i in range(11):
        folder = root / "clones" / f"model-{i:02}"
        folder.mkdir(parents=True)
        (folder / "tf_model.h5").write_text(POINTER)
    for i in range(35):
        folder = Path(shutil.copytree(DATA / "electra" / "tied", root / "electra" / f"run-{i:02}"))
        for file in folder.glob("*.json"):
            file.unlink()
    for i in range(5):
        folder = Path(shutil.copytree(BERT, root / "shards" / str(i)))
        next(folder.glob("*.data-*")).unlink()
    write_bundle(root / "own", {"mine/weights": np.ones((2, 2), np.float32)})
    (root / "cut.index").write_bytes((BERT / "bert_model.ckpt.index").read_bytes()[:-9])
    (root / "none.index").write_bytes(b"")


def left_over(root):
    """What is no checkpoint to convert, with its cause."""
    folder = root / "left"
    folder.mkdir()
    state = {"global_step": np.int64(3), "beta1_power": np.float32(0.9)}
    write_bundle(folder / "optimizer", state)
    write_safetensors(folder / "model.safetensors", {"a": np.ones(2, np.float32)}, {"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    (folder / "optimizer.pt").write_bytes(b"PK")
    (folder / "flax_model.msgpack").write_bytes(b"\x81\xa1a\xc0")
    (folder / "tf_model.h5.part").write_bytes(b"\x89HDF")
    (folder / "lost.data-00000-of-00001").write_bytes(bytes(9))
    (folder / "graph.meta").write_bytes(b"x")
    (folder / "books.index").write_text("Melville, Moby-Dick")
    (folder / "model.ckpt-9_temp_0123abc").mkdir()
    (folder / "saved_model.pb").write_bytes(b"x")
    return {
        "optimizer": "training-state-alone",
        "model.safetensors": "pytorch",
        "pytorch_model.bin": "pytorch",
        "optimizer.pt": "pytorch",
        "flax_model.msgpack": "jax",
        "tf_model.h5.part": "partial-file",
        "lost.data-00000-of-00001": "lone-shard",
        "graph.meta": "graph-alone",
        "books.index": "not-a-checkpoint",
        "model.ckpt-9_temp_0123abc": "partial-file",
        "saved_model.pb": "graph-alone",
    }


def test_what_fails_and_what_is_passed_over_has_a_cause(tmp_path):
    damaged(tmp_path / "models")
    expected = left_over(tmp_path / "models")
    report = report_of(tmp_path / "models", "--output-root", tmp_path / "out", code=1)
    assert report["root"] == str(tmp_path / "models")
    assert report["causes"] == {
        "missing-config": 35,
        "git-lfs-pointer": 11,
        "missing-shard": 5,
        "unknown-model": 1,
        "corrupt": 1,
        "empty-file": 1,
    }
    outcomes = report["outcomes"]
    assert Counter(o["code"] for o in outcomes if o["status"] == "failed") == report["causes"]
    assert {o["model_type"] for o in outcomes if o["code"] == "missing-config"} == {"electra"}
    passed = {
        Path(o["tf_checkpoint"]).name: o["code"] for o in outcomes if o["status"] == "passed_over"
    }
    assert passed == expected
    assert (report["done"], report["failed"], report["passed_over"]) == (1, 54, len(expected))
    assert report["jobs"] == len(outcomes) == 55 + len(expected)
    assert "training-state-alone" not in (tmp_path / "out").iterdir()


def test_leftovers_alone_are_no_failure(tmp_path):
    shutil.copytree(BERT, tmp_path / "models" / "bert")
    left_over(tmp_path / "models")
    result = batch(tmp_path / "models", "--output-root", tmp_path / "out")
    assert "12 jobs: 1 done, 11 passed over" in result.stdout
    assert "3 pytorch" in result.stdout
    shutil.rmtree(tmp_path / "models" / "bert")
    (tmp_path / "models" / "left" / "optimizer.index").unlink()
    (tmp_path / "models" / "left" / "model.safetensors").unlink()
    said = batch(tmp_path / "models", "--output-root", tmp_path / "out", code=2).output
    assert "no checkpoint below it; " in said


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (60, 40), (200, 60)])
def test_failures_fit_the_screen_grouped_by_cause(tmp_path, columns, lines, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("tfreader.cli.batch.LINES", lines)
    root = tmp_path / "models"
    damaged(root)
    said = batch(root, "--output-root", tmp_path / "out", "--quiet", code=1).stdout
    shown = said.splitlines()
    assert max(map(len, shown)) <= columns
    assert len(shown) < lines
    groups = [line.split(":")[0] for line in shown if re.match(r"\d+ ", line)]
    assert groups == [
        "35 electra missing-config",
        "11 git-lfs-pointer",
        "5 missing-shard",
        "1 corrupt",
        "1 empty-file",
        "1 unknown-model",
        "55 jobs",
    ]
    assert shown[-1].startswith("55 jobs: 1 done, 54 failed, ")
    paths = [
        *(f"electra/run-{i:02}/" for i in range(35)),
        *(f"clones/model-{i:02}/" for i in range(11)),
        *(f"shards/{i}/" for i in range(5)),
    ]
    counts = [said.count(path) for path in paths]
    hidden = sum(map(int, re.findall(r"… and (\d+) more", said)))
    assert set(counts) <= {0, 1}
    assert counts.count(0) == hidden
    assert (hidden == 0) == (lines > 40)
    assert said.count(f"{root}/") == 0


@pytest.mark.parametrize(("lines", "together"), [(24, 0), (12, 12)])
def test_more_causes_than_lines(lines, together):
    codes = [f"cause-{i:02}" for i in range(18)]
    report = BatchReport("tfreader batch", "/models", 2 * len(codes))
    for code in codes:
        for name in "ab":
            job = Job(f"/models/{code}/{name}", "")
            report.add(Outcome(job, "failed", 0.0, error=f"{job.tf_checkpoint}: no", code=code))
    shown = [*summary_lines(report, 80, lines)]
    assert len(shown) < lines
    assert max(map(len, shown)) <= 80
    text = " ".join(" ".join(shown).split())
    assert all(text.count(f"2 {code}") == 1 for code in codes)
    assert sum(line.startswith("2 ") and line.endswith("no") for line in shown) == 18 - together
    assert shown[-2:] == ["--report FILE names each", "36 jobs: 36 failed, 0 B written"]


def test_names_that_would_break_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    for name in ("a\nb\x1b[2J", "中" * 40, "x" * 90):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "tf_model.h5").write_text(POINTER)
    said = batch(tmp_path / "models", "--output-root", tmp_path / "out", "--quiet", code=1).stdout
    from rich.cells import cell_len

    assert max(map(cell_len, said.splitlines())) <= 40
    assert "\x1b" not in said


def test_a_pattern_that_the_shell_expanded(tmp_path):
    for name in ("bert-a", "bert-b", "bert-c"):
        shutil.copytree(BERT, tmp_path / name)
    batch, here = shlex.join([*TFREADER, "batch"]), shlex.quote(str(tmp_path))
    wrong = f"{batch} --glob {here}/bert*/*.index --output-root {here}/out"
    done = subprocess.run(wrong, shell=True, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "quote it: --glob" in done.stderr
    wrong = f"{batch} {here}/bert-? --output-root {here}/out"
    done = subprocess.run(wrong, shell=True, check=False, capture_output=True, text=True)
    hint = re.search(r"--glob (.*)", done.stderr.replace("\n", ""))
    (pattern,) = shlex.split(hint[1])
    report = report_of("--glob", pattern, "--output-root", tmp_path / "out")
    assert report["done"] == 3


def test_a_killed_run_leaves_a_report_of_what_was_done(tmp_path):
    root, file = tmp_path / "models", tmp_path / "report.json"
    for i in range(40):
        shutil.copytree(BERT, root / f"{i:02}")
    arguments = [root, "--output-root", tmp_path / "out", "--report", file]
    command = [*TFREADER, "batch", *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not json.loads(file.read_text() if file.exists() else "{}").get("done"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    report = json.loads(file.read_text())
    assert report["end"] is None
    assert report["version"] == tfreader.__version__
    assert report["host"]
    assert shlex.split(report["command"]) == ["tfreader", "batch", *map(str, arguments)]
    assert report["jobs"] == 40
    assert 1 <= report["done"] == len(report["outcomes"]) <= 40
    for outcome in report["outcomes"]:
        verify_output(outcome["pytorch_dump_output"])
    assert batch(*arguments).stdout.startswith("40 jobs: ")
    report = json.loads(file.read_text())
    assert report["start"] <= report["end"]
    assert report["done"] + report["skipped"] == 40


def test_a_log_of_json_is_nothing_else(tmp_path):
    root = tmp_path / "models"
    damaged(root)
    left_over(root)
    (root / "link").symlink_to(BERT)
    for arguments, code in (
        ([root, "--output-root", tmp_path / "out"], 1),
        (["--glob", f"{root}/**/*.index", "--output-root", tmp_path / "out"], 1),
        ([root, "--glob", "x", "--output-root", tmp_path / "out"], 2),
        ([root, "--nonsense"], 2),
        (["nothing.jsonl"], 2),
        ([root, "--output-root", tmp_path / "out", "--report", "s3://nowhere/r.json"], 1),
        ([root, "--output-root", tmp_path / "out", "--dask", "nonsense://x"], 1),
    ):
        command = [*TFREADER, "batch", *map(str, arguments), "--log-json"]
        environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stderr
        events = [json.loads(line) for line in done.stderr.splitlines()]
        assert events[-1]["event"] in ("batch finished", "failed")
        assert done.stdout == ""


def test_a_source_that_was_moved_and_touched_is_known_by_its_contents(tmp_path):
    for sources, options in (
        ([BERT, DATA / "classifier", DATA / "xlm" / "causal"], []),
        ([DATA / "gpt"], ["--set", "n_head=1"]),
    ):
        root = tmp_path / "models"
        for source in sources:
            shutil.copytree(source, root / source.name)
        options += ["--output-root", tmp_path / f"out-{len(sources)}"]
        assert report_of(root, *options)["done"] == len(sources)
        moved = root.rename(tmp_path / f"moved-{len(sources)}")
        for file in moved.rglob("*"):
            os.utime(file, (1, 1))
        assert report_of(moved, *options)["skipped"] == len(sources)
    values = moved / "gpt" / "params_3.npy"
    values.write_bytes(values.read_bytes()[:-4] + bytes(4))
    os.utime(values, (1, 1))
    assert report_of(moved, *options)["done"] == 1


@pytest.mark.parametrize("source", [BERT, DATA / "keras3" / "export", DATA / "classifier"])
def test_a_record_tells_nothing_of_this_machine(tmp_path, source):
    """Neither where files lay nor when; two machines give the same bytes."""
    records = []
    for name in ("one", "two/deeper"):
        folder = Path(shutil.copytree(source, tmp_path / name / "my model"))
        rules = tmp_path / name / "rules.toml"
        rules.write_text('[[rule]]\nsource = "(?P<n>.*)"\ntarget = "{n}"\n')
        for file in folder.rglob("*"):
            os.utime(file, (len(name), len(name)))
        own = {"rules": rules} if source.name == "export" else {}
        convert(folder, tmp_path / name / "out", **own)
        records.append((tmp_path / name / "out" / "conversion.json").read_bytes())
        verify_against(tmp_path / name / "out", folder)
    assert records[0] == records[1]
    text = records[0].decode()
    assert str(tmp_path) not in text
    assert str(tmp_path.parent.parent) not in text
    assert "modified" not in text


def test_a_record_has_no_relative_path_either(tmp_path, monkeypatch):
    """Nor is a variable's scope taken for one that is called as it is."""
    records = []
    for home, path in (
        ("a/b/bert", "a/b/bert"),
        ("bert", "bert"),
        ("c/bert", "../c/bert"),
        ("d/bert", "."),
    ):
        shutil.copytree(BERT, tmp_path / home)
        (tmp_path / home / "vocab.txt").unlink(missing_ok=True)
        (tmp_path / "here").mkdir(exist_ok=True)
        here = {"../c/bert": tmp_path / "here", ".": tmp_path / home}.get(path, tmp_path)
        monkeypatch.chdir(here)
        convert(path, tmp_path / f"out-{len(records)}")
        records.append((tmp_path / f"out-{len(records)}" / "conversion.json").read_text())
    assert len({*records}) == 1
    assert "config: bert_config.json" in records[0]
    assert "bert/embeddings/word_embeddings" in records[0]


def test_a_record_is_the_same_however_its_checkpoint_is_spelled(tmp_path, monkeypatch):
    """Names in notes stay whole, also where a part of one is the folder's name."""
    home = shutil.copytree(BERT, tmp_path / "attention")
    (home / "checkpoint").write_text('model_checkpoint_path: "/gone/attention/model"')
    records = set()
    for number, (here, path) in enumerate(
        [
            (tmp_path, "attention"),
            (tmp_path, "./attention"),
            (tmp_path, "attention/../attention/"),
            (tmp_path, f"{tmp_path}//attention"),
            (home, "."),
            (home, "../attention"),
            (home, "checkpoint"),
        ]
    ):
        monkeypatch.chdir(here)
        convert(path, tmp_path / f"out-{number}")
        records.add((tmp_path / f"out-{number}" / "conversion.json").read_text())
    (record,) = records
    assert "bert/encoder/layer_0/attention/output/LayerNorm/beta" in record
    assert "checkpoint names 'model', which does not exist" in record


@pytest.mark.parametrize("folder", ["/", "/attention", "attention", ".", "/a b/attention", "x/.."])
def test_a_note_of_a_record_keeps_the_names_of_variables(folder):
    plan = Mock(path=os.path.join(folder, "m"), beside=Beside.within([Path(folder)]))
    for note in (
        "told by encoder/attention/output",
        "'attention/output' is left out (docs/families.md); rows 1 ... 3 of 'x'. More.",
    ):
        assert _without_folders(note, plan) == note
    assert _without_folders(f"config: {plan.path}, of m", plan) == "config: m, of m"


def test_what_a_record_calls_its_source(tmp_path):
    named = tmp_path / "named"
    convert(KERAS, named, rules=KERAS / "rules.toml", source_name="hub.example/keras-regressor")
    record = json.loads((named / "conversion.json").read_text())
    assert record["source"]["checkpoint"] == "hub.example/keras-regressor"
    assert record["rules"]["name"] == "rules.toml"
    assert convert(KERAS, named, rules=KERAS / "rules.toml", resume=True).skipped
    report = report_of(BERT, "--output-root", tmp_path / "out", "--source-name", "google/bert")
    (outcome,) = report["outcomes"]
    record = json.loads((Path(outcome["pytorch_dump_output"]) / "conversion.json").read_text())
    assert record["source"]["checkpoint"] == "google/bert"
    for name, done in (("other/bert", 1), (None, 0)):  # asked for later, and not asked for
        asked = ["--source-name", name] * (name is not None)
        report = report_of(BERT, "--output-root", tmp_path / "out", *asked)
        assert report["done"] == done
        record = json.loads((Path(outcome["pytorch_dump_output"]) / "conversion.json").read_text())
        assert record["source"]["checkpoint"] == "other/bert"


def test_every_code_is_in_the_docs():
    files = [
        file for part in ("tfreader", "mapping", "cli") for file in (ROOT / part).rglob("*.py")
    ]
    text = "".join(file.read_text() for file in files)
    codes = set(re.findall(r'\b(?:code|cause) = "([a-z-]+)"|code="([a-z-]+)"', text))
    listed = (ROOT / "docs" / "batch.md").read_text()
    assert {
        code for found in codes for code in found if code and f"`{code}`" not in listed
    } == set()


def test_errors_keep_their_code_in_a_pickle():
    error = tfreader.CheckpointNotFoundError("gone", code="missing-shard")
    assert pickle.loads(pickle.dumps(error)).code == "missing-shard"
    for said, code in (
        ("m: no checkpoint; m.index is a Git LFS pointer, not the file itself", "git-lfs-pointer"),
        ("m: damaged", "corrupt"),
    ):
        assert tfreader.CorruptCheckpointError(said).code == code


def test_a_wildcard_passes_over_what_is_no_checkpoint(tmp_path, monkeypatch):
    """A name that is spelled out is meant, and so is a damaged checkpoint."""
    root = tmp_path / "models"
    for source, name in {BERT: "bert", DATA / "gpt": "gpt"}.items():
        shutil.copytree(source, root / name)
    shutil.copytree(DATA / "keras3" / "export", root / "saved")
    (root / "bert" / "README.md").write_text("# BERT")
    (root / "bert" / "records-00000-of-00002").write_text("no table")
    (root / "bert" / "model.ckpt-7").write_text(POINTER)
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").write_text("a")
    outcomes = report_of(
        *("--glob", f"{root}/*/*"), "--output-root", tmp_path / "out", "--dry-run", code=1
    )["outcomes"]
    found = {below(root, o["tf_checkpoint"]): (o["status"], o["code"]) for o in outcomes}
    none = ("passed_over", "not-a-checkpoint")
    assert found.pop("bert/bert_model.ckpt") == ("planned", None)
    assert found.pop("gpt/params") == ("failed", "missing-config")
    assert found.pop("bert/model.ckpt-7") == ("failed", "git-lfs-pointer")
    assert found.pop("saved/variables")[0] == "failed"
    assert found["bert/README.md"] == found["bert/records-00000-of-00002"] == none
    assert set(found.values()) == {none}
    assert not any(name.startswith("gpt/params") or "saved" in name for name in found)

    monkeypatch.chdir(root)
    result = batch("--glob", "*", "--output-root", tmp_path / "all", "--quiet", code=1)
    assert "note: passed over: notes: holds no checkpoint" in result.stderr
    assert "4 jobs: 1 done, 2 failed, 1 passed over" in result.stdout
    report = report_of("--glob", "bert/README.md", "--output-root", tmp_path / "x", code=1)
    assert report["causes"] == {"corrupt": 1}
    result = batch("--glob", "*/*.md", "--output-root", tmp_path / "x", code=2)
    assert "*/*.md: no jobs there; bert/README.md: no checkpoint" in result.output


def test_what_lies_there_in_place_of_a_file_is_the_cause(tmp_path):
    """Of every kind of file, and whatever else lies beside it."""
    root = tmp_path / "models"
    root.mkdir()
    variables = some_variables()
    for name, text in {"pointer": POINTER, "page": "<!DOCTYPE html><p>404", "empty": ""}.items():
        for kind, file in {"gpt": "params_1.npy", "xlm": "best-valid_en_clm_ppl.pth"}.items():
            source = DATA / "xlm" / "causal" if kind == "xlm" else DATA / kind
            shutil.copytree(source, root / f"{kind}-{name}")
            (root / f"{kind}-{name}" / file).write_text(text)
        folder = root / f"shards-{name}"
        folder.mkdir()
        write_sharded(folder, variables, "h5")
        max(folder.glob("*.h5")).write_text(text)
    for folder in ("no-index", "no-file", "no-object", "junk"):
        (root / folder).mkdir()
    write_sharded(root / "no-index", variables, "h5")
    (root / "no-index" / "tf_model.h5.index.json").unlink()
    (root / "no-file" / "tf_model.h5").symlink_to("../blobs/0123abc")
    (root / "no-file" / "notes.txt").symlink_to("nowhere")
    shutil.copytree(DATA / "gpt", root / "no-array")
    (root / "no-array" / "params_0.npy").unlink()
    (root / "junk" / "own.safetensors").write_bytes(b"junk" * 9)
    write_safetensors(root / "junk" / "model.safetensors", variables, {"format": "pt"})
    found = {}
    for one in report_of(root, "--output-root", tmp_path / "out", "--dry-run", code=1)["outcomes"]:
        found[below(root, one["tf_checkpoint"]).partition("/")[0]] = one["code"]
        is_ours = "model.safetensors" not in one["tf_checkpoint"]
        assert one["status"] == ("failed" if is_ours else "passed_over"), one
        found |= {"own": one["code"]} if "own.safe" in one["tf_checkpoint"] else {}
    del found["junk"]
    causes = {"pointer": "git-lfs-pointer", "page": "web-page", "empty": "empty-file"}
    assert found == {
        **{f"{k}-{n}": code for k in ("gpt", "xlm", "shards") for n, code in causes.items()},
        "no-index": "missing-index",
        "no-file": "not-found",
        "no-array": "missing-shard",
        "own": "corrupt",
    }


def test_a_checkpoint_whose_names_are_in_a_lost_shard_lacks_a_shard(tmp_path):
    shutil.copytree(DATA / "keras3" / "export", tmp_path / "models")
    for file in (tmp_path / "models" / "variables").glob("*.data-*"):
        file.unlink()
    report = report_of(tmp_path / "models", "--output-root", tmp_path / "out", code=1)
    assert report["causes"] == {"missing-shard": 1}


def test_values_without_index_are_told_of_once_a_model(tmp_path):
    shutil.copytree(BERT, tmp_path / "models" / "bert")
    for i in range(3):
        (tmp_path / "models" / f"lost.data-{i:05}-of-00003").write_bytes(b"x")
    report = report_of(tmp_path / "models", "--output-root", tmp_path / "out")
    assert (report["jobs"], report["passed_over"]) == (2, 1)


@pytest.mark.parametrize("ignores", [False, True])
def test_outputs_of_names_that_are_one_there_are_kept_apart(tmp_path, monkeypatch, ignores):
    """By Unicode's forms everywhere, as paths are found by any; by case where it means nothing."""
    monkeypatch.setattr("tfreader.cli.jobs.ignores_case", lambda _: ignores)
    root = tmp_path / "models"
    names = ["CASE", "case", "gro\u00df-\u00e4", "gro\u00df-a\u0308"]
    for number, name in enumerate(names):
        shutil.copytree(BERT, root / name)
        config = json.loads((BERT / "bert_config.json").read_text())
        config["hidden_dropout_prob"] = number / 10
        (root / name / "bert_config.json").write_text(json.dumps(config))
    for status in ("done", "skipped"):
        report = report_of(root, "--output-root", tmp_path / "out")
        assert report[status] == len(names)
    outputs = {}
    for one in report["outcomes"]:
        written = json.loads(Path(one["pytorch_dump_output"], "config.json").read_text())
        name = below(root, one["tf_checkpoint"]).partition("/")[0]
        outputs[name] = below(tmp_path / "out", one["pytorch_dump_output"])
        assert written["hidden_dropout_prob"] == names.index(name) / 10
    assert outputs["CASE"] == "CASE/bert_model.ckpt"
    assert outputs["case"] == "case/bert_model.ckpt" + "_2" * ignores
    # The folder of both is spelled as that of the first that is written.
    assert Path(outputs[names[3]]).name == "bert_model.ckpt"
    assert Path(outputs[names[2]]).name == "bert_model.ckpt_2"


def test_each_output_of_a_folder_is_a_folder_with_its_config(tmp_path):
    """Also where the checkpoint is called as a file would be that is written."""
    root = tmp_path / "models"
    shutil.copytree(DATA / "xlm" / "causal", root / "xlm")
    for name in ("xlm/best-valid_en_clm_ppl.index", "xlm/other.pth"):
        shutil.copy(root / "xlm" / "best-valid_en_clm_ppl.pth", root / name)
    outcomes = report_of(root, "--output-root", tmp_path / "out")["outcomes"]
    outputs = {
        below(root, one["tf_checkpoint"]): Path(one["pytorch_dump_output"])
        for one in outcomes
        if one["status"] == "done"
    }
    assert {name: below(tmp_path / "out", path) for name, path in outputs.items()} == {
        "xlm/best-valid_en_clm_ppl.pth": "xlm/best-valid_en_clm_ppl.pth",
        "xlm/other.pth": "xlm/other",
    }
    for path in outputs.values():
        assert (path / "config.json").is_file()
        assert verify_output(path)


def test_a_wildcard_that_takes_a_folder_and_other_files_in_it_takes_its_checkpoint(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("bert-base", "bert-both", "all-bert/one", "all-bert/bert-two", "bert-saved"):
        shutil.copytree(BERT, name)
    for name in ("bert-base", "all-bert/one", "all-bert/bert-two"):
        for file in Path(name).glob("bert_model.ckpt.*"):
            file.rename(file.with_name(file.name.replace("bert_model", "model")))
    Path("bert-none").mkdir()
    Path("bert-none/bert.txt").touch()
    outcomes = report_of("--glob", "**/*bert*", "--output-root", "out", "--dry-run")["outcomes"]
    planned = {o["tf_checkpoint"] for o in outcomes if o["status"] == "planned"}
    assert {below(tmp_path, path) for path in planned} == {
        "all-bert/bert-two",  # and all-bert holds none itself
        "bert-base",
        "bert-both/bert_model.ckpt",
        "bert-saved/bert_model.ckpt",
    }
    assert "bert-none/bert.txt" in {o["tf_checkpoint"] for o in outcomes}


def test_a_link_to_a_folder_is_left_by_what_takes_all_and_taken_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BERT, "here/bert")
    Path("here/link").symlink_to("bert")
    Path("here/round").symlink_to(".")
    for pattern, found in {
        "here/**": ["bert/bert_model.ckpt"],
        "**/*.index": ["here/bert/bert_model.ckpt"],
        "**/l*k": ["here/link"],
        "here/*": ["bert", "link", "round"],
    }.items():
        code = int(found[-1] == "round")  # which checkpoint?
        result = batch(
            *("--glob", pattern, "--output-root", "out", "--dry-run", "--json"), code=code
        )
        outcomes = [
            o for o in json.loads(result.stdout)["outcomes"] if o["status"] != "passed_over"
        ]
        assert sorted(below("out", o["pytorch_dump_output"]) for o in outcomes) == found
        assert ("link: a link to a folder" in result.stderr) == found[0].endswith(".ckpt")


def test_a_pattern_may_be_a_name(tmp_path, monkeypatch):
    """Also one with what would be wildcards, and that of no file."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BERT, "runs[1]")
    for pattern in ("runs[1]", "runs[1]/bert_model.ckpt", "runs[[]1]/bert_model.ckpt", "*/*.ckpt"):
        (outcome,) = report_of("--glob", pattern, "--output-root", "out", "--dry-run")["outcomes"]
        name = "runs[1]" if pattern == "runs[1]" else "runs[1]/bert_model.ckpt"
        assert outcome["pytorch_dump_output"] == str(tmp_path / "out" / name)
    with pytest.raises(AssertionError, match="braces are no pattern here: repeat --glob"):
        batch("--glob", "{runs[1],x}/*", "--output-root", "out")
    hint = batch("runs[1]/bert_model.ckpt", "--output-root", "out", code=2).output
    (pattern,) = re.findall(r"--glob (.*)", hint)
    batch("--glob", *shlex.split(pattern), "--output-root", "out", "--dry-run")


def test_outputs_among_the_checkpoints_give_no_other_names(tmp_path):
    shutil.copytree(DATA / "xlm" / "causal", tmp_path / "models" / "xlm")
    for status in ("done", "skipped"):
        report = report_of(tmp_path / "models", "--output-root", tmp_path / "models")
        assert report[status] == 1
        assert report["failed"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_what_this_user_may_not_look_into_is_told(tmp_path):
    (tmp_path / "locked").mkdir()
    tmp_path.chmod(0o700)
    names = str(tmp_path / "locked" / "*"), str(tmp_path / "locked" / "model.ckpt")
    os.seteuid(65534)
    try:
        results = [
            CliRunner().invoke(main, ["batch", "--glob", name, "--output-root", "out"])
            for name in names
        ]
        assert not ignores_case(str(tmp_path / "locked" / "out"))
    finally:
        os.seteuid(0)
    for result in results:
        assert (result.exit_code, "not accessible to this user" in result.output) == (1, True)
