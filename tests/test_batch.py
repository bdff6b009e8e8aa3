"""`tfreader batch`: reading jobs, doing them all, failing one by one, going on after a kill."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import click
import numpy as np
import pytest
from batch_workers import DeadlyPool
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS, TFREADER

import tfreader
from tfreader.cli.jobs import from_file, from_glob
from tfreader.cli.main import main
from tfreader.mapping import convert
from tfreader.mapping.batch import Batch, Job, Pool, shares
from tfreader.mapping.batch.workers import BASE_MEMORY, MIN_SHARE, TORCH_MEMORY
from tfreader.mapping.records.audit import verify_output


def write_jobs(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(checkpoint, output, **options):
    return {"tf_checkpoint": str(checkpoint), "pytorch_dump_output": str(output), **options}


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def tree(folder):
    """All files below a folder with their contents."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


FILES = {
    "jobs.jsonl": (
        '{"tf_checkpoint": "in/a", "pytorch_dump_output": "out/a", "dtype": "float16"}\n\n'
        '{"tf-checkpoint": "/abs/b", "pytorch-dump-output": "s3://bucket/b", "config": "c.json", '
        '"ignore": ["x.*", "y"], "set": {"hidden_act": "gelu_new", "n_head": 12}}\n'
    ),
    "jobs.toml": (
        '[[job]]\ntf_checkpoint = "in/a"\npytorch_dump_output = "out/a"\ndtype = "float16"\n'
        '[[job]]\ntf_checkpoint = "/abs/b"\npytorch_dump_output = "s3://bucket/b"\n'
        'config = "c.json"\nignore = ["x.*", "y"]\n'
        'set = { hidden_act = "gelu_new", n_head = 12 }\n'
    ),
    "jobs.csv": (
        "tf_checkpoint,pytorch_dump_output,dtype,config,ignore,set\n"
        "in/a,out/a,float16,,,\n"
        '/abs/b,s3://bucket/b,,c.json,"[""x.*"", ""y""]",'
        '"{""hidden_act"": ""gelu_new"", ""n_head"": 12}"\n'
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_all_kinds_of_job_files_say_the_same(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    first, second = from_file(str(tmp_path / name), {"model_type": "bert", "dtype": "bfloat16"})
    assert first.tf_checkpoint == str(tmp_path / "in" / "a")
    assert first.pytorch_dump_output == str(tmp_path / "out" / "a")
    assert first.options["dtype"] == "float16"
    assert second.tf_checkpoint == "/abs/b"
    assert second.pytorch_dump_output == "s3://bucket/b"
    assert second.options["config"] == str(tmp_path / "c.json")
    assert second.options["ignore"] == ("x.*", "y")
    assert second.options["overrides"] == {"hidden_act": "gelu_new", "n_head": 12}
    assert second.options["dtype"] == "bfloat16"  # of the command line
    assert {job.options["model_type"] for job in (first, second)} == {"bert"}


A, B = '"tf_checkpoint": "a"', '"pytorch_dump_output": "b"'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("jobs.txt", "", "ends in .jsonl"),
        ("jobs.jsonl", "", "no jobs"),
        ("jobs.jsonl", f"{{{A}, {B}}}\n{{{A}}}", "line 2: Missing option '--pytorch_dump_output'"),
        ("jobs.jsonl", f'{{{A}, {B}, "dtyp": "float16"}}', "line 1: No such option.*--dtype"),
        ("jobs.jsonl", f'{{{A}, {B}, "dtype": "int4"}}', "'int4' is not one of 'float16'"),
        (
            "jobs.jsonl",
            f"{{{A}, {B}}}\n{{{A}, {B}}}",
            "line 2: its output .*/b is that of .*line 1",
        ),
        ("jobs.jsonl", "[1]", "line 1: not an object"),
        ("jobs.jsonl", '{"a', "line 1: Unterminated"),
        (
            "jobs.jsonl",
            f'{{{A}, {B}}}\n{{{A}, {B[:-1]}/c"}}',
            "line 2: its output lies in .*/b, that",
        ),
        ("jobs.jsonl", '{"tf_checkpoint": ["a", "b"], "pytorch_dump_output": "c"}', "takes one"),
        ("jobs.jsonl", f'{{{A}, {B}, "ignore": {{"a": "b"}}}}', "ignore cannot be"),
        ("jobs.toml", "a = 1", "job"),
        ("jobs.toml", "[[job]", "Expected"),
        ("jobs.csv", "tf_checkpoint,pytorch_dump_output\na\n", "line 2: not as many cells"),
    ],
)
def test_a_file_that_is_no_list_of_jobs_is_wrong_usage(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    result = invoke(tmp_path / name, code=2)
    assert re.search(message, result.output), result.output
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["missing.jsonl"],
        ["--glob", "*.index"],
        ["--output-root", "out"],
        ["jobs.jsonl", "--glob", "*.index", "--output-root", "out"],
        [DATA, "--glob", "*.index", "--output-root", "out"],
        [DATA],
        [DATA, "--output-root", "out", "--report", "https://localhost/report.json"],
        ["--glob", "nothing/**/*.index", "--output-root", "out"],
        ["--glob", "*.index", "--output-root", ""],
        ["--glob", f"{BERT}/*.index", "--output-root", "out", "--resource", "MEMORY"],
        ["--glob", f"{BERT}/*.index", "--output-root", "out", "--resource", "MEMORY=nan"],
        ["--glob", f"{BERT}/*.index", "--output-root", "out", "--memory-limit", "much"],
        ["--glob", f"{BERT}/*.index", "--output-root", "out", "--report", "no/such/folder.json"],
    ],
)
def test_wrong_usage(arguments):
    assert "Error" in invoke(*arguments, code=2).output


def test_a_file_of_jobs_with_an_output_root_is_no_pattern(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.jsonl", row(BERT, "out"))
    said = invoke(jobs, "--output-root", tmp_path, code=2).output
    assert "leave out --output-root" in said and "--glob jobs" not in said


def test_an_output_by_two_names_is_one(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    jobs = write_jobs(tmp_path / "jobs.jsonl", row(BERT, "out/a"), row(BERT, "link/a"))
    assert "is that of" in invoke(jobs, code=2).output


def test_text_that_other_formats_would_cut(tmp_path):
    """A line break in a CSV cell, and what only Python takes for one in JSON."""
    (tmp_path / "jobs.csv").write_text(
        'tf_checkpoint,pytorch_dump_output,ignore\r\na,"o\nx",[ab].*\r\n', newline=""
    )
    (job,) = from_file(str(tmp_path / "jobs.csv"), {})
    assert job.pytorch_dump_output == f"{tmp_path}/o\nx"
    assert job.options["ignore"] == ("[ab].*",)
    text = '{"tf_checkpoint": "a", "pytorch_dump_output": "o\u2028x"}'
    (tmp_path / "jobs.jsonl").write_text(text)
    (job,) = from_file(str(tmp_path / "jobs.jsonl"), {})
    assert job.pytorch_dump_output == f"{tmp_path}/o\u2028x"


def test_a_glob_finds_each_checkpoint_once(tmp_path):
    for source, target in {BERT: "a/bert", KERAS: "a/b/keras", DATA / "v1": "v1"}.items():
        shutil.copytree(source, tmp_path / target)
    shutil.copytree(DATA / "keras3" / "export", tmp_path / "saved")
    shutil.copytree(BERT, tmp_path / "a" / "bert" / "bert_model.ckpt-9_temp_0123abc")
    jobs = from_glob([f"{tmp_path}/**/*.index"], "out", {})
    assert {
        job.tf_checkpoint.removeprefix(f"{tmp_path}/"): os.path.relpath(job.pytorch_dump_output)
        for job in jobs
    } == {
        "a/bert/bert_model.ckpt": "out/a/bert/bert_model.ckpt",
        "a/b/keras/model.ckpt-1": "out/a/b/keras/model.ckpt-1",
        "saved/variables/variables": "out/saved",
    }
    (v1,) = from_glob([f"{tmp_path}/v1/model.ckpt-0*"], "out", {})
    assert v1.tf_checkpoint == f"{tmp_path}/v1/model.ckpt"


def test_several_globs_are_put_together(tmp_path):
    for target in ("a/bert", "b/other", "c"):
        shutil.copytree(BERT, tmp_path / target)
    patterns = [f"{tmp_path}/{name}/**/*.index" for name in ("a", "b")]
    jobs = from_glob([*patterns, patterns[0]], "out", {})
    outputs = [os.path.relpath(job.pytorch_dump_output) for job in jobs]
    assert outputs == ["out/bert/bert_model.ckpt", "out/other/bert_model.ckpt"]
    with pytest.raises(click.UsageError, match="nothing.*: no jobs there"):
        from_glob([patterns[0], f"{tmp_path}/nothing/*.index"], "out", {})


def test_a_rows_own_flags_do_not_replace_those_that_may_repeat(tmp_path):
    line = row(BERT, "out", set={"a": 1, "b": [2]}, ignore="x", dtype="float16")
    jobs = write_jobs(tmp_path / "jobs.jsonl", line)
    given = {"set": {"b": 3, "c": 4}, "ignore": ("y",), "dtype": "bfloat16", "vocab": "v.txt"}
    (job,) = from_file(str(jobs), given)
    assert job.options["overrides"] == {"a": 1, "b": [2], "c": 4}
    assert job.options["ignore"] == ("y", "x")
    assert job.options["dtype"] == "float16"
    assert job.options["vocab"] == os.path.abspath("v.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"tf_checkpoint": "a", "tf_checkpoint": "b"}', "line 1: the key"),
        ("a.jsonl", '{"tf-checkpoint": "a", "tf_checkpoint": "b"}', "tf_checkpoint is given twice"),
        ("a.csv", "tf_checkpoint,dtype,dtype\na,b,c\n", "two columns are called 'dtype'"),
    ],
)
def test_no_value_of_a_row_replaces_another(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(click.UsageError, match=message):
        from_file(str(tmp_path / name), {})


def test_one_that_fails_does_not_stop_the_others(tmp_path):
    jobs = write_jobs(
        tmp_path / "jobs.jsonl",
        row(tmp_path / "nothing", "out/nothing"),
        row(BERT, "out/bert", dtype="float16"),
        row(KERAS, "out/keras"),
        row(KERAS, "out/keras.bin", rules=str(KERAS / "rules.toml")),
    )
    result = invoke(jobs, "--report", tmp_path / "report.json", code=1)
    assert "4 jobs: 2 done, 2 failed" in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["jobs"], report["done"], report["failed"]) == (4, 2, 2)
    by_output = {Path(o["pytorch_dump_output"]).name: o for o in report["outcomes"]}
    assert by_output["nothing"]["error_type"] == "CheckpointNotFoundError"
    assert "no checkpoint there" in by_output["nothing"]["error"]
    assert "no known family" in by_output["keras"]["error"]
    assert "\\n" not in result.output  # two lines of an error, in one of the table
    assert by_output["bert"]["architecture"] == "BertForPreTraining"
    assert set(os.listdir(tmp_path / "out")) == {"bert", "keras.bin", "keras.bin.conversion.json"}
    convert(BERT, tmp_path / "alone", dtype="float16")
    alone, together = tree(tmp_path / "alone"), tree(tmp_path / "out" / "bert")
    assert {k: v for k, v in alone.items() if k != "conversion.json"} == {
        k: v for k, v in together.items() if k != "conversion.json"
    }


def test_a_dry_run_plans_all_and_writes_nothing(tmp_path):
    copy = Path(shutil.copytree(BERT, tmp_path / "no-data"))
    next(copy.glob("*.data-*")).unlink()
    jobs = write_jobs(
        tmp_path / "jobs.jsonl", row(BERT, "out/bert"), row(KERAS, "out/k"), row(copy, "out/c")
    )
    result = invoke(jobs, "--dry-run", code=1)
    assert "3 jobs: 1 planned, 2 failed, 0 B written" in result.output
    assert "no known family" in result.output
    assert "is missing" in result.output
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_skipped_unless_forced(tmp_path):
    jobs = write_jobs(
        tmp_path / "jobs.jsonl", row(BERT, "out/bert"), row(BERT, "out/b.safetensors")
    )
    assert "2 done" in invoke(jobs).output
    before = tree(tmp_path / "out")
    assert "2 jobs: 2 skipped, 0 B written" in invoke(jobs).output
    os.truncate(tmp_path / "out" / "b.safetensors", 10)
    assert "1 done, 1 skipped" in invoke(jobs).output
    assert "2 done" in invoke(jobs, "--force").output
    assert "2 done" in invoke(jobs, "--dtype", "float16").output
    assert "2 done" in invoke(jobs).output
    assert tree(tmp_path / "out") == before


def test_a_log_of_json(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.jsonl", row(BERT, "out/bert"), row(KERAS, "out/keras"))
    result = invoke(jobs, "--log-json", code=1)
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [event["event"] for event in events] == [
        "batch started",
        "job finished",
        "job finished",
        "batch finished",
    ]
    assert {event["status"] for event in events[1:3]} == {"done", "failed"}
    assert events[-1]["failed"] == 1
    assert result.stdout == ""


def test_json_is_one_document(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.jsonl", row(BERT, "out/bert"))
    assert json.loads(invoke(jobs, "--json", "--quiet").stdout)["done"] == 1


def test_a_terminal_shows_one_live_table(tmp_path):
    jobs = write_jobs(
        tmp_path / "jobs.jsonl",
        *(row(BERT, f"out/{i}") for i in range(60)),
        row(KERAS, "out/keras"),
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [*TFREADER, "batch", jobs], stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 1
    text = shown.decode()
    for heading in ("running", "waiting", "done", "failed", "written", "rate", "time left"):
        assert heading in text
    assert "failed: 1 unknown-model" in text
    assert str(KERAS) not in text  # it comes in the summary


def run_with(workers, tmp_path, *names, **settings):
    jobs = [Job(str(BERT), str(tmp_path / name), {}) for name in names]
    outcomes = Batch(jobs, workers, memory_limit=1 << 26, **settings).run()
    return {Path(outcome.job.pytorch_dump_output).name: outcome for outcome in outcomes}


def test_a_job_that_kills_its_worker_fails_alone(tmp_path):
    names = ["a", "deadly", "b", "fatal-once", "c", "d"]
    outcomes = run_with(DeadlyPool(2), tmp_path, *names)
    assert outcomes.keys() == set(names)
    assert {name: o.status for name, o in outcomes.items() if o.status == "failed"} == {
        "deadly": "failed"
    }
    assert "its worker died 3 times" in outcomes["deadly"].error
    assert outcomes["fatal-once"].attempts > 1
    for name in set(names) - {"deadly"}:
        verify_output(tmp_path / name)


@pytest.mark.parametrize("is_silent", [False, True])
def test_what_workers_print_is_not_for_logs(tmp_path, capfd, is_silent):
    assert run_with(DeadlyPool(1, is_silent), tmp_path, "fatal-once")["fatal-once"].attempts == 2
    assert ("last words" in capfd.readouterr().err) is not is_silent


def test_the_memory_is_shared():
    for limit, workers, with_torch in itertools.product(
        (2 * 10**8, 5 * 10**8, 10**9, 10**10), (1, 2, 7, 64), (False, True)
    ):
        base = TORCH_MEMORY if with_torch else BASE_MEMORY
        if limit < BASE_MEMORY + base + MIN_SHARE:
            with pytest.raises(tfreader.ConfigError, match="one worker takes"):
                shares(limit, workers, with_torch)
            continue
        count, share = shares(limit, workers, with_torch)
        assert 1 <= count <= workers
        assert share >= MIN_SHARE
        assert BASE_MEMORY + count * (base + share) <= limit


def test_too_little_memory_is_refused(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.jsonl", row(BERT, "out/bert"))
    assert "too small" in invoke(jobs, "--memory-limit", "50MB", code=2).output


def in_session(session):
    """The processes of a session, as /proc tells."""
    if not os.path.exists("/proc"):
        pytest.skip("nothing tells them here")
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def ended(session):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not in_session(session):
            return True
        time.sleep(0.05)
    return False


def start(*arguments, **options):
    return subprocess.Popen(
        [*TFREADER, "batch", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


@pytest.fixture
def forty(tmp_path):
    """A file of forty jobs, every other one a torch file."""
    rows = (row(BERT, f"out/{i}" + ("" if i % 2 else ".safetensors")) for i in range(40))
    return write_jobs(tmp_path / "jobs.jsonl", *rows)


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, forty):
    invoke(forty)
    undisturbed = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    for finished in (1, 9, 20):
        with start(forty) as process:
            for _ in range(finished):
                process.stderr.readline()
            process.kill()
        assert ended(process.pid)  # its workers do not outlive it
    result = invoke(forty)
    assert int(re.search(r"(\d+) skipped", result.output)[1]) >= 20
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_report_and_nothing_half_done(tmp_path, forty, number):
    with start(forty, "--report", tmp_path / "report.json") as process:
        process.stderr.readline()
        process.send_signal(number)
        process.stderr.read()
    assert process.returncode == 130
    assert ended(process.pid)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"]
    assert 0 < report["done"] < 40
    outputs = {path for path in (tmp_path / "out").iterdir() if path.suffix != ".json"}
    assert {Path(o["pytorch_dump_output"]) for o in report["outcomes"]} == outputs
    for path in outputs:
        verify_output(path)


def test_jobs_go_on_when_nobody_reads_the_log(tmp_path, forty):
    with start(forty) as process:
        process.stderr.readline()
        process.stderr.close()
    assert process.returncode == 0
    assert len(list((tmp_path / "out").glob("*.json"))) == 20  # records of the output files
    again = shlex.join([*TFREADER, "batch", forty])
    for closed in ("2>&-", ">&-"):
        done = subprocess.run(f"{again} {closed}", shell=True, check=False, capture_output=True)
        assert done.returncode == 0
        assert b"Traceback" not in done.stderr


def test_a_report_spares_the_file_of_jobs(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.jsonl", row(BERT, "out/bert"))
    before = Path(jobs).read_bytes()
    (tmp_path / "link").symlink_to(".")
    said = invoke(jobs, "--report", tmp_path / "link" / "jobs.jsonl", code=2).output
    assert "is the file of jobs, and would be overwritten" in said
    assert Path(jobs).read_bytes() == before
    said = invoke(jobs, "--report", tmp_path / "none" / "r.json", code=2).output
    assert "its folder is not there" in said


def test_a_report_spares_what_is_no_file(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.jsonl", row(BERT, "out/bert"))
    os.mkfifo(tmp_path / "pipe")
    with start(jobs, "--report", tmp_path / "pipe"), open(tmp_path / "pipe") as pipe:
        assert json.load(pipe)["done"] == 1
    (tmp_path / "report.json").write_text("precious")
    (tmp_path / "jobs.jsonl").write_text("")
    invoke(jobs, "--report", tmp_path / "report.json", code=2)
    assert (tmp_path / "report.json").read_text() == "precious"


def test_a_full_disk_fails_the_job_that_does_not_fit(tmp_path):
    """As a quota does: no file may be larger than so many bytes."""
    prefix = write_bundle(tmp_path / "large", {"x": np.zeros(100_000, np.float32)})
    (tmp_path / "rules.toml").write_text('[[rule]]\nsource = "x"\ntarget = "x"\n')
    jobs = write_jobs(
        tmp_path / "jobs.jsonl",
        row(BERT, "out/fits"),
        row(prefix, "out/large", rules=str(tmp_path / "rules.toml")),
        row(BERT, "out/fits-too"),
    )
    size = 60_000  # of BERT's weights
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    with start(jobs, preexec_fn=limit) as process:
        log = process.stderr.read()
    assert process.returncode == 1
    assert re.search(
        r"failed .*large: output: the output: cannot be written \(File too large\)", log
    )
    assert sorted(os.listdir(tmp_path / "out")) == ["fits", "fits-too"]


def test_a_report_that_cannot_be_written_hides_no_outcome(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.jsonl", *(row("none", f"out/{i}") for i in range(9)))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    for more in ("--quiet", "--json", "--log-json"):
        report = ["--report", str(tmp_path / "report.json"), more]
        run = subprocess.run(
            [*TFREADER, "batch", jobs, *report],
            preexec_fn=limit,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert "report.json: cannot be written (File too large)" in run.stderr
        if more == "--json":
            assert json.loads(run.stdout)["failed"] == 9
        elif more == "--quiet":
            assert "9 jobs: 9 failed" in run.stdout
        else:
            assert [json.loads(line)["event"] for line in run.stderr.splitlines()][-1] == "failed"
        assert json.loads((tmp_path / "report.json").read_text())["end"] is None
    assert sorted(os.listdir(tmp_path)) == ["jobs.jsonl", "report.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_small_file_system_that_fills_up(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        rows = (row(BERT, small / str(i)) for i in range(4))
        result = invoke(write_jobs(tmp_path / "jobs.jsonl", *rows), "--jobs", 1, code=1)
        assert "No space left on device" in result.output
        left = sorted(path.name for path in small.iterdir())
        assert len(left) in (1, 2)
        for name in left:
            verify_output(small / name)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_pools_count_what_they_write(tmp_path):
    pool = Pool(1)
    outcomes = run_with(pool, tmp_path, "a", "b")
    assert pool.written() == sum(outcome.nbytes for outcome in outcomes.values())
