"""What the commands print with --json, and the records they write, is what docs/schemas says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS, ROOT
from jsonschema import Draft202012Validator

from tfreader.cli.look import open_any
from tfreader.cli.main import main
from tfreader.cli.report import BatchReport
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.batch import Outcome

SCHEMAS = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text())
    for path in sorted((ROOT / "docs" / "schemas").iterdir())
}
CLASSIFIER = ROOT / "examples" / "tf-classifier"
CHECKPOINTS = (
    *(
        BERT,
        KERAS,
        CLASSIFIER,
        DATA / "objects",
        DATA / "v1" / "dtypes",
        DATA / "v1" / "model.ckpt",
        DATA / "gpt",
    ),
    *(DATA / "keras" / "model3.keras", DATA / "xlm" / "causal" / "best-valid_en_clm_ppl.pth"),
)


def fits(name, data):
    """Raise what the schema of that name has against it, which must be finite JSON at that."""
    json.dumps(data, allow_nan=False)
    Draft202012Validator(SCHEMAS[name]).validate(data)


def printed(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_a_schema_is_one_and_leaves_no_object_open(schema):
    Draft202012Validator.check_schema(schema)
    name = schema["$id"].rpartition("/")[2]
    assert (ROOT / "docs" / "schemas" / name).exists()

    def check(part):
        if isinstance(part, dict):
            if "properties" in part and part.get("type") == "object":
                assert part["additionalProperties"] is False
            for inner in part.values():
                check(inner)
        elif isinstance(part, list):
            for inner in part:
                check(inner)

    check(schema)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.name)
def test_inspect_and_verify(checkpoint):
    fits("inspect-1", printed("inspect", checkpoint))
    fits("verify-1", printed("verify", checkpoint))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.name)
def test_statistics_and_values(checkpoint):
    fits("inspect-1", printed("inspect", checkpoint, "--all", "--stats"))
    with open_any(str(checkpoint)) as found:
        for info in found.infos:
            fits("show-1", printed("show", checkpoint, info.name))
            if info.shape and info.shape[0]:
                fits("show-1", printed("show", checkpoint, info.name, "--rows", "-1"))


def test_differences_of_every_kind(tmp_path):
    w = np.array([1, np.nan, np.inf], np.float32)
    same = {"same": w, "shape": w, "dtype": w, "values": w, "endless": w}
    changed = {"shape": w[:2], "dtype": w.astype(float), "values": w + 1, "endless": w * -1}
    write_bundle(tmp_path / "a" / "model", {**same, "mine": w})
    write_bundle(tmp_path / "b" / "model", {**same, **changed, "yours": w})
    for more in ((), ("--names-only",), ("--ignore-dtype",), ("--filter", "mine")):
        fits("diff-1", printed("diff", tmp_path / "a", tmp_path / "b", *more, code=1))
    fits("diff-1", printed("diff", BERT, BERT))
    convert(BERT, tmp_path / "out")
    fits("verify-1", printed("diff", tmp_path / "out", BERT))


def test_failures(tmp_path):
    for command in ("inspect", "verify"):
        fits(f"{command}-1", printed(command, tmp_path / "none", code=1))
    fits("show-1", printed("show", BERT, "no such variable", code=1))
    fits("diff-1", printed("diff", BERT, tmp_path / "none", code=2))
    fits("verify-1", printed("verify", BERT, "--against", BERT, code=1))
    out = ("--pytorch_dump_output", tmp_path / "out")
    fits("plan-1", printed("convert", "--tf_checkpoint", tmp_path / "none", *out, code=1))
    wrong = ("--tf_checkpoint", BERT, "--set", "hidden_size=7", *out, "--dry-run")
    found = printed("convert", *wrong, code=1)
    fits("plan-1", found)
    assert found["tensors"]


PLANS = (
    (BERT,),
    (BERT, "--dtype", "float16", "--set", "id2label=null"),
    (KERAS, "--rules", KERAS / "rules.toml"),
    (CLASSIFIER,),
    (DATA / "xlm" / "causal" / "best-valid_en_clm_ppl.pth",),
    (DATA / "tapas" / "sqa",),
)


@pytest.mark.parametrize("arguments", PLANS, ids=lambda arguments: arguments[0].name)
@pytest.mark.parametrize("checksum", ["crc32c", "sha256"])
def test_plans_and_records(tmp_path, arguments, checksum):
    checkpoint, *options = arguments
    out = ("--pytorch_dump_output", tmp_path / "out", "--checksum", checksum)
    command = ("convert", "--tf_checkpoint", checkpoint, *options, *out)
    fits("plan-1", printed(*command, "--dry-run"))
    fits("plan-1", printed(*command))
    fits("conversion-1", json.loads((tmp_path / "out" / "conversion.json").read_text()))
    fits("verify-1", printed("verify", tmp_path / "out"))
    found = printed("verify", tmp_path / "out", "--against", checkpoint)
    fits("verify-1", found)
    assert found["ok"]


def test_what_rules_do():
    rules = KERAS / "rules.toml"
    found = printed("rules", rules, "--tf_checkpoint", KERAS)
    fits("rules-1", found)
    assert [rule["hint"] for rule in found["rules"]] == [""] * len(found["rules"])
    assert not found["free"] and len(found["tensors"]) == len(found["rules"])
    found = printed("rules", rules, "--tf_checkpoint", BERT, code=1)
    fits("rules-1", found)
    assert "bert/pooler/dense/bias" in found["free"]
    fits("rules-1", printed("rules", rules, "--tf_checkpoint", KERAS / "none", code=1))
    fits("rules-1", printed("rules", rules, code=2))


def test_a_comparison_with_every_status(tmp_path):
    tensors = {name: tensor.clone() for name, tensor in load_state_dict(BERT).items()}
    kernel = "bert.encoder.layer.0.attention.self.key.weight"
    tensors[kernel] = tensors[kernel].t().contiguous()
    tensors["bert.pooler.dense.bias"][0] = float("inf")
    tensors["bert.pooler.dense.weight"] += 1
    tensors["strange"] = torch.ones(3)
    del tensors["cls.predictions.bias"], tensors["cls.predictions.decoder.bias"]
    torch.save(tensors, tmp_path / "model.bin")
    found = printed("verify", tmp_path / "model.bin", "--against", BERT, code=1)
    fits("verify-1", found)
    assert all(found["counts"].values())


def test_reports_of_batches(tmp_path):
    """Of each status, of a dry run, and of one that was killed."""
    folder, report = tmp_path / "in", tmp_path / "report.json"
    shutil.copytree(BERT, folder / "bert")
    shutil.copytree(KERAS, folder / "keras")
    (folder / "model.h5").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "x.pth").write_bytes(b"PK\x03\x04")
    torch.save({"a": torch.ones(2)}, folder / "own.pth")
    out = ("--output-root", tmp_path / "out", "--jobs", 1)
    seen = set()
    for more, code in ((["--dry-run"], 1), ([], 1), (["--report", report], 1)):
        found = printed("batch", folder, *out, *more, code=code)
        fits("batch-report-1", found)
        seen |= {outcome["status"] for outcome in found["outcomes"]}
    fits("batch-report-1", json.loads(report.read_text()))
    assert seen >= {"done", "skipped", "planned", "failed"}
    running = BatchReport("tfreader batch", "/x", 3)
    running.add(Outcome.passed_over("/x/y", "jax", "of Flax"))
    fits("batch-report-1", json.loads(running.to_json()))
    assert json.loads(running.to_json())["end"] is None


def test_a_damaged_output(tmp_path):
    convert(BERT, tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text("{}")
    fits("verify-1", printed("verify", tmp_path / "out", code=1))
    fits("verify-1", printed("verify", tmp_path / "out", "--against", BERT, code=1))
