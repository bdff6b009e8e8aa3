from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA

import tfreader
from tfreader.cli.main import main
from tfreader.cli.show import printable


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def convert(out, *arguments, checkpoint=BERT, code=0):
    return run(
        "convert",
        "--tf_checkpoint",
        checkpoint,
        "--pytorch_dump_output",
        out,
        *arguments,
        code=code,
    )


def test_the_old_flags_in_both_spellings(tmp_path):
    config = BERT / "bert_config.json"
    for name in ("model_type", "model-type"):
        out = tmp_path / name
        convert(out, f"--{name}", "bert", "--config", config, "--finetuning_task_name", "mnli")
        assert json.loads((out / "config.json").read_text())["finetuning_task"] == "mnli"


def test_the_plan_of_a_dry_run_is_folded_over_layers_and_writes_nothing(tmp_path):
    output = convert(tmp_path / "out", "--dry-run").stdout
    assert "bert.encoder.layer.{0...1}.output.dense.weight" in output
    assert "transpose" in output
    assert "tied: cls.predictions.decoder.weight" in output
    assert "left out (slot variable adam_m)" in output
    assert not (tmp_path / "out").exists()


def test_json_is_one_document(tmp_path):
    for arguments in (["--dry-run"], []):
        data = json.loads(convert(tmp_path / "out", "--json", *arguments).stdout)
        assert data["architecture"] == "BertForPreTraining"
        (tensor,) = (t for t in data["tensors"] if t["target"] == "bert.pooler.dense.weight")
        assert tensor == {
            "target": "bert.pooler.dense.weight",
            "sources": ["bert/pooler/dense/kernel"],
            "operations": "transpose",
            "shape": [24, 24],
            "dtype": "float32",
        }
    assert str(tmp_path / "out" / "model.safetensors") in data["files"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["inspect", "nowhere"], 1, "no checkpoint there"),
        (["inspect", BERT, "--filter", "a{9999999999}"], 2, "--filter"),
        (["inspect", BERT, "--filter", "(" * 5000 + ")" * 5000], 2, "--filter"),
        (["verify", "nowhere"], 1, "no checkpoint there"),
        (["verify", BERT, "--against", BERT], 1, "no PyTorch weights"),
        (["convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", ""], 1, "no letter"),
        (["verify"], 2, "PATH"),
        (["batch", "--glob", "nothing/*", "--output-root", "out"], 2, "no jobs there"),
        (["batch", "nowhere.jsonl"], 2, "cannot be read"),
        (
            ["convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", "o", "--dtype", "f"],
            2,
            "f",
        ),
        (["convert", "--tf_checkpoint", "no", "--pytorch_dump_output", "o"], 1, "no checkpoint"),
        (
            ["convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", "o", "--ignore", "["],
            1,
            "[",
        ),
    ],
)
def test_with_json_a_failure_too_is_one_document(tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, "--json", code=code)
    data = json.loads(result.stdout)
    assert not data["ok"]
    assert said in data["error"]
    assert data["problems"]
    assert said in result.stderr
    assert "bug" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--filter", "--ignore"])
def test_brackets_in_brackets_are_no_matter_for_a_warning(tmp_path, option):
    pattern = "([[a-z]|[a--z]|bert)/.*pooler.*"
    arguments = {
        "--filter": ["inspect", BERT],
        "--ignore": ["convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", tmp_path / "out"],
    }[option]
    program = [sys.executable, "-m", "tfreader.cli.main", *map(str, arguments), option, pattern]
    result = subprocess.run(program, check=False, capture_output=True, text=True)
    assert "Warning" not in result.stderr
    assert "pooler" in result.stdout + result.stderr


def test_set_overrides_any_key_of_the_config(tmp_path):
    convert(tmp_path / "out", "--set", "hidden_act=gelu_new", "--set", "pad_token_id=3")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_act"], config["pad_token_id"]) == ("gelu_new", 3)
    convert(tmp_path / "out", "--set", "nonsense", code=2)


def test_a_small_window_gives_the_same_file(tmp_path):
    convert(tmp_path / "usual.safetensors")
    convert(tmp_path / "small.safetensors", "--memory-limit", "1KB")
    files = [tmp_path / f"{name}.safetensors" for name in ("usual", "small")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_quiet_prints_nothing(tmp_path):
    assert convert(tmp_path / "out", "--quiet").output == ""


def test_inspect_folds_slots():
    lines = run("inspect", BERT).stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("bert/pooler/dense/kernel"))
    assert line.split() == [
        *("bert/pooler/dense/kernel", "float32", "[24,", "24]", "0", "2304"),
        *("slots:", "adam_m,", "adam_v"),
    ]
    assert not any(line.startswith("bert/pooler/dense/kernel/adam_m") for line in lines)
    listed = run("inspect", BERT, "--all", "--filter", "pooler.*adam_m").stdout.splitlines()
    assert [line.split()[0] for line in listed[1:-1]] == [
        "bert/pooler/dense/bias/adam_m",
        "bert/pooler/dense/kernel/adam_m",
    ]


def test_inspect_json_says_where_every_variable_lies():
    data = json.loads(run("inspect", DATA / "reader" / "sharded", "--json").stdout)
    assert data["format"] == "v2"
    by_name = {variable["name"]: variable for variable in data["variables"]}
    assert by_name["block/001/weights"]["shard"] == 1
    assert by_name["block/001/weights"]["offset"] == 0
    assert len(by_name["partitioned"]["slices"]) == 2


def test_verify(copy):
    assert "all in order" in run("verify", BERT).stdout
    folder = copy(BERT)
    (data,) = folder.glob("*.data-*")
    contents = bytearray(data.read_bytes())
    contents[100] ^= 1
    contents[-100] ^= 1
    data.write_bytes(contents)
    result = run("verify", folder, code=1)
    assert result.stderr.count("checksum mismatch") == 2
    assert json.loads(run("verify", folder, "--json", code=1).stdout)["ok"] is False


def test_printed_rules_can_be_used(tmp_path):
    rules = tmp_path / "my.toml"
    rules.write_text(run("rules", "bert").stdout)
    convert(tmp_path / "a", "--rules", rules)
    convert(tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model_type", "nothing"], 2, "unknown model type 'nothing'; known: auto, "),
        (["--config", "missing.json"], 1, "missing.json"),
        (["--rules", "missing.toml"], 1, "missing.toml"),
        (["--max-shard-size", "much"], 1, "5GB"),
        (["--dtype", "float12"], 2, "float12"),
        (["--set", "vocab_size=7"], 1, "vocab_size = 7 in --set vocab_size"),
        (["--ignore", "("], 1, "bad regular expression"),
        (["--config", "a", "--config", "b"], 2, "--config is given 2 times"),
        (["--dtype=float16", "--dtype", "float16"], 2, "--dtype is given 2 times"),
        (["--set", "pad_token_id=1", "--set", "pad_token_id=2"], 2, "pad_token_id is set twice"),
        (["--set", "a=" + "[" * 10_000], 2, "nested more than 64 levels"),
        (["--set", "hidden_size=" + "9" * 5_000], 2, "4300 digits"),
        (["--set", "hiden_act=relu"], 1, "is 'hidden_act' meant?"),
        (["--vocab", "missing.txt"], 1, "missing.txt: no such vocabulary"),
    ],
)
def test_what_is_refused_says_why_and_writes_nothing(tmp_path, arguments, code, message):
    result = convert(tmp_path / "out", *arguments, code=code)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_no_known_family(tmp_path):
    result = convert(tmp_path / "out", checkpoint=DATA / "reader" / "sharded", code=1)
    assert "--rules" in result.stderr


def test_a_missing_checkpoint(tmp_path):
    result = convert(tmp_path / "out", checkpoint=tmp_path / "none", code=1)
    assert str(tmp_path / "none") in result.stderr
    assert len(result.stderr.splitlines()) <= 3


def test_debug_shows_the_traceback(tmp_path):
    for arguments in (["--debug", "inspect", tmp_path], ["inspect", tmp_path, "--debug"]):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert isinstance(result.exception, FileNotFoundError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["batch", "--help"],
        ["inspect", BERT],
        ["verify", BERT],
        ["convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", "out"],
        ["convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", "o", "--model_type", "bert"],
    ],
)
def test_no_command_imports_what_it_does_not_use(tmp_path, arguments):
    program = (
        "import sys\n"
        "from tfreader.cli.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print('modules', *sys.modules)\n"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = set(done.stdout.partition("modules ")[2].split())
    unused = {"torch", "transformers", "tensorflow", "safetensors", "rich", "obstore", "asyncio"}
    assert not imported & {*unused, "distributed", "ssl"}
    if "--model_type" in arguments:
        assert "tfreader.mapping.families.bert" in imported
        assert "tfreader.mapping.families.t5" not in imported


def test_rules_as_a_checkpoint_needs_them(tmp_path):
    source = DATA / "transfo_xl" / "one_table"
    printed = run("rules", "transfo_xl", "--tf_checkpoint", source).output
    (tmp_path / "rules.toml").write_text(printed)
    convert(tmp_path / "out", "--rules", tmp_path / "rules.toml", checkpoint=source)
    convert(tmp_path / "plain", checkpoint=source)
    files = [tmp_path / name / "model.safetensors" for name in ("out", "plain")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_inspect_and_verify_know_what_only_a_family_does():
    assert "model/we/tokens" in run("inspect", DATA / "gpt").output
    assert "all in order" in run("verify", DATA / "gpt").output


def test_a_dry_run_asks_for_what_the_conversion_will(tmp_path):
    (tmp_path / "source").mkdir()
    for file in BERT.glob("bert_model*"):
        shutil.copy(file, tmp_path / "source")
    source = tmp_path / "source"
    result = convert(tmp_path / "out", "--dry-run", checkpoint=source, code=1)
    assert "needs num_attention_heads" in result.stderr
    convert(tmp_path / "out.safetensors", "--dry-run", checkpoint=source)


@pytest.mark.parametrize("name", ["x.npz", "x.hdf5", "x.ckpt", "x.pt2", "x.BIN", "x.safetensor"])
def test_no_folder_is_made_where_a_file_is_meant(tmp_path, name):
    result = convert(tmp_path / name, code=1)
    assert "no file ending in" in result.stderr and ".safetensors" in result.stderr
    assert not list(tmp_path.iterdir())
    convert(f"{tmp_path / name}/")
    assert (tmp_path / name / "model.safetensors").is_file()


def test_a_name_with_a_newline_forges_no_line(tmp_path):
    with tfreader.open(BERT) as checkpoint:
        tensors = {name: checkpoint[name] for name in checkpoint if "adam" not in name}
    name = "bert/pooler/dense/kernel\nnote: all is well"
    tensors[name] = tensors.pop("bert/pooler/dense/kernel")
    write_bundle(tmp_path / "model.ckpt", tensors)
    config = ("--config", BERT / "bert_config.json")
    renamed = {f"a\nnote: b/{key}": value for key, value in tensors.items()}
    write_bundle(tmp_path / "scope" / "model.ckpt", renamed)
    for arguments in (
        ["convert", tmp_path / "model.ckpt", *config, "--dry-run"],
        [
            "convert",
            tmp_path / "model.ckpt",
            *config,
            "--dry-run",
            "--ignore-weights",
            "(?s).*\n.*",
        ],
        ["show", tmp_path / "model.ckpt", "bert/pooler/dense/kernel"],
    ):
        result = run(*arguments, code=1)
        assert "dense/kernel\\nnote: all" in result.output
        assert "\nnote: all" not in result.output
    assert "\nnote: all" not in run("show", tmp_path / "model.ckpt", name).output
    said = run("convert", tmp_path / "scope" / "model.ckpt", "--dry-run", code=1).stderr
    assert "like a\\nnote: b/bert" in said


def test_what_cannot_be_printed_is_escaped_and_nothing_else():
    assert printable("größe/β\x1b[0m\n") == "größe/β\\x1b[0m\\n"
    assert printable("a\u202eb\ud800") == "a\\u202eb\\ud800"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has one")
def test_a_full_device_is_no_fault_of_ours(tmp_path):
    command = [sys.executable, "-m", "tfreader.cli.main", "inspect", str(BERT)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr == "tfreader: cannot print any more: No space left on device\n"


def test_names_that_a_terminal_has_no_letters_for_are_printed_all_the_same(tmp_path):
    write_bundle(tmp_path / "model", {"größe/β": np.ones(2, np.float32)})
    command = [sys.executable, "-m", "tfreader.cli.main", "inspect", str(tmp_path / "model")]
    for encoding, shown in (("utf-8", "größe/β"), ("latin-1", "größe/\\u03b2")):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        result = subprocess.run(command, capture_output=True, env=environment, check=True)
        assert shown in result.stdout.decode(encoding)


def test_every_value_of_a_set_key_is_plain_where_it_is_no_json(tmp_path):
    convert(tmp_path / "out", "--set", "cls_token=[CLS]", "--set", 'summary=["a"]')
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["cls_token"], config["summary"]) == ("[CLS]", ["a"])
