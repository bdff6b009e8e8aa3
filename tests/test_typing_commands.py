"""What helps to type a command: arguments in their place, `--help`, shell completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from conftest import BERT, KERAS, write_program

from tfreader.cli.guide import model_types
from tfreader.cli.main import main
from tfreader.errors import OutputError, UnknownModelTypeError
from tfreader.mapping import convert
from tfreader.mapping.families import families, get_family


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_checkpoint_and_the_output_in_their_places(tmp_path):
    run("convert", BERT, tmp_path / "placed")
    run("convert", "--dtype", "keep", BERT, "--pytorch_dump_output", tmp_path / "mixed")
    run("convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", tmp_path / "flags")
    run("convert", "--tf_checkpoint", BERT, tmp_path / "flag")
    names = ("placed", "mixed", "flags", "flag")
    made = [(tmp_path / name / "model.safetensors") for name in names]
    assert len({file.read_bytes() for file in made}) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([BERT, "out", "--tf_checkpoint", BERT], "CHECKPOINT is given twice"),
        ([BERT, "out", "--pytorch-dump-output", "out"], "OUT is given twice"),
        (["out", "--tf-checkpoint", BERT, "--pytorch_dump_output", "o"], "CHECKPOINT is given"),
        (["--tf-checkpoint", BERT], "--pytorch_dump_output"),
        ([BERT, "out", "more"], "unexpected extra argument"),
        ([BERT], "--pytorch_dump_output"),
        (["--pytorch_dump_output", "out"], "--tf_checkpoint"),
        (["--dry-run"], "--tf_checkpoint"),
    ],
)
def test_twice_or_not_at_all_is_wrong_usage(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in run("convert", *arguments, code=2).stderr
    assert said in json.loads(run("convert", *arguments, "--json", code=2).stdout)["error"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("BERT", "bert"),
        ("brt", "bert"),
        ("gpt-2", "gpt2"),
        ("bert-base-uncased", "bert"),
        ("google/bert_large", "bert"),
        ("Transfo_XL", "transfo-xl"),
        ("distilbret", "distilbert"),
        ("Auto", "auto"),
    ],
)
def test_of_a_misspelled_model_type_the_near_one_is_named(given, meant):
    said = run("convert", BERT, "--dry-run", "--model_type", given, code=2).stderr
    found = re.search("is '(.*)' meant", said)[1]
    assert found.replace("_", "-") == meant
    for other in ("xy", "mobilenet", "mobilenet_v3", "gpt3"):  # of other numbers is another model
        said = run("convert", BERT, "--dry-run", "--model_type", other, code=2).stderr
        assert "is '" not in said and "known: " in said


def test_a_near_name_that_is_not_converted_comes_with_the_reason():
    said = run("convert", BERT, "--dry-run", "--model_type", "roberta-base", code=2).stderr
    assert "is 'roberta' meant? RoBERTa: not converted" in said and "Instead: " in said


def test_a_checkpoint_in_the_place_of_a_model_type_gets_the_command(tmp_path, monkeypatch):
    for given in (BERT, BERT / "bert_model.ckpt"):
        said = run("rules", given, code=2).stderr.strip()
        command = said.rpartition(": tfreader ")[2]
        assert run(*command.split()).stdout == run("rules", "bert", "--tf_checkpoint", BERT).stdout
    assert "rules auto --tf_checkpoint CHECKPOINT" in run("rules", "auto", code=2).stderr
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    assert run("rules", "bert").stdout


@pytest.mark.parametrize(
    ("command", "code", "meaning"),
    [
        ("diff", 1, "they differ"),
        ("verify", 1, "something is not"),
        ("batch", 1, "a job failed"),
        ("batch", 2, "wrong usage, also in a row of JOBS"),
        ("show", 1, "this checkpoint, config or output failed"),
    ],
)
def test_help_says_what_the_exit_codes_of_that_command_are(command, code, meaning):
    _, told = run(command, "--help").stdout.split("Exit codes:")
    assert f" {code} {meaning}" in " ".join(told.split())
    assert told.split().count("1") == 1


@pytest.mark.parametrize("given", ["BertForMaskedLm", "bertformaskedlm", "TFBertForMaskedLM"])
def test_of_a_misspelled_class_the_near_one_is_named(given):
    said = run("convert", BERT, "--dry-run", "--architecture", given, code=2).stderr
    assert "is 'BertForMaskedLM' meant?; known: " in said


@pytest.mark.parametrize("option", ["--config", "--vocab", "--target", "--ignore", "--set"])
def test_a_value_of_no_letter_is_not_the_current_folder(option):
    said = run("convert", BERT, "--dry-run", option, "", code=2).stderr
    assert f"{option} is given nothing" in said
    run("convert", BERT, "--dry-run", "--scope", "")
    with pytest.raises(UnknownModelTypeError):
        convert(BERT, dry_run=True, model_type="")


def test_a_checkpoint_to_suggest_rules_for_may_be_in_its_place(tmp_path):
    run("suggest", KERAS, "--output", tmp_path / "placed.toml")
    run("suggest", "--tf_checkpoint", KERAS, "--output", tmp_path / "flag.toml")
    assert (tmp_path / "placed.toml").read_bytes() == (tmp_path / "flag.toml").read_bytes()
    assert "--tf_checkpoint names too" in run("suggest", "--output", "x.toml", code=2).stderr


def test_a_dry_run_needs_no_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run("convert", BERT, "--dry-run").stdout
    assert shown == run("convert", BERT, "out", "--dry-run").stdout
    data = json.loads(run("convert", BERT, "--dry-run", "--json").stdout)
    assert data["output"] == "" and "model.safetensors" in data["files"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="no output is named"):
        convert(BERT)


def test_a_dry_run_without_an_output_asks_for_what_a_folder_needs(tmp_path):
    for file in BERT.glob("bert_model*"):
        shutil.copy(file, tmp_path)
    assert "needs num_attention_heads" in run("convert", tmp_path, "--dry-run", code=1).stderr


@pytest.mark.parametrize("command", [[], ["convert"]])
def test_help_names_families_exit_codes_and_examples(command):
    shown = " ".join(run(*command, "--help").stdout.split())
    for name in families():
        assert f" {name}," in f"{shown.replace(' Exit', ', Exit')},"
    for code in ("0 done", "1 this", "2 wrong usage", "130 interrupted"):
        assert code in shown
    assert "tfreader convert bert/bert_model.ckpt out/bert" in shown


def complete(*words, shell="bash"):
    """What a shell is told that may stand in place of the last of these words."""
    program = "from tfreader.cli.main import main; main(prog_name='tfreader')"
    environment = {
        **os.environ,
        "_TFREADER_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(("tfreader", *words)),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "che"],
        ["convert", "bert", "out"],
        ["convert", "--tf_checkpoint", "x"],
        ["convert", "--config", "x"],
        ["convert", "--rules", "x"],
        ["convert", "--vocab", "x"],
        ["inspect", "x"],
        ["verify", "out", "--against", "x"],
        ["batch", "x"],
        ["rules", "x.to"],
        ["suggest", "--tf_checkpoint", "x"],
    ],
)
def test_paths_are_completed(words):
    assert complete(*words) == [f"file,{words[-1]}"]


def test_every_path_is_completed():
    paths = {"FILE", "PATH", "OUT", "DIR", "T", "CHECKPOINT", "A", "B", "[FOLDER | JOBS]"}
    for name, command in main.commands.items():
        with click.Context(command) as ctx:
            for parameter in command.params:
                is_path = parameter.metavar in paths or parameter.name in ("checkpoint", "path")
                if is_path and parameter.name != "finetuning_task_name":
                    (found,) = parameter.shell_complete(ctx, "x")
                    assert found.type in ("file", "dir"), (name, parameter.name)


def test_families_and_classes_are_completed():
    assert complete("convert", "--model_type", "mobilenet") == [
        "plain,mobilenet_v1",
        "plain,mobilenet_v2",
    ]
    assert {"plain,auto", "plain,hf-tf", "plain,transfo-xl"} <= {
        *complete("convert", "--model_type", "")
    }
    assert complete("rules", "xln") == ["file,xln", "plain,xlnet"]
    assert complete("convert", "--model_type", "gpt2", "--architecture", "") == [
        "plain,GPT2LMHeadModel",
        "plain,GPT2Model",
    ]
    assert complete("convert", "--model_type", "hf-tf", "--architecture", "WhisperForC") == [
        "plain,WhisperForConditionalGeneration"
    ]
    everywhere = complete("convert", "--architecture", "Tapas")
    assert "plain,TapasForQuestionAnswering" in everywhere
    assert complete("convert", "--model_type", "nothing", "--architecture", "") == []


def test_values_behind_an_equals_sign_are_completed():
    """Each shell in its way: bash makes words of its parts, the others replace the whole."""
    assert complete("convert", "--model_type", "=", "rof") == ["plain,roformer"]
    assert complete("convert", "--config", "=", "x") == ["file,x"]
    for shell, told in (
        ("zsh", ["plain", "--model_type=roformer", "_"]),
        ("fish", ["plain,--model_type=roformer"]),
    ):
        assert complete("convert", "--model_type=rof", shell=shell) == told
        assert not complete("convert", "--set=hidden_act=ge", shell=shell)


def test_a_list_of_model_types_loads_no_family():
    assert model_types() == ["auto", *families()]
    program = """
import sys
from tfreader.cli.main import main
try:
    main(["--help"])
except SystemExit:
    sys.exit(any(name.startswith("tfreader.mapping") for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_every_family_has_classes():
    for name in families():
        assert get_family(name).classes()


def test_a_shell_completes(tmp_path):
    """By the documented line, in a shell that knows nothing but where the command is."""
    write_program(tmp_path / "tfreader", "from tfreader.cli.main import run\nrun()")
    script = """
eval "$(tfreader completion bash)"
complete -p tfreader | grep -q -- '-F _tfreader_completion' || exit 1
COMP_WORDS=(tfreader convert --model_type elec) COMP_CWORD=3
_tfreader_completion tfreader
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", script],
        env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "electra\n", done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(shell):
    assert f"_TFREADER_COMPLETE={shell}_complete" in run("completion", shell).stdout
    assert f"tfreader completion {shell}" in run("completion", "--help").stdout


def test_a_shell_that_has_none_is_wrong_usage():
    assert "'bash', 'zsh', 'fish'" in run("completion", "csh", code=2).stderr
