"""The record of a conversion: what it says, what is checked against it, and when it says "done"."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS
from crc32c import crc32c
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from test_v1 import floats, write_v1

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert
from tfreader.mapping.records.audit import verify_against, verify_output


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def checksum(kind, data):
    return sha256(data) if kind == "sha256" else f"{crc32c(data):08x}"


@pytest.mark.parametrize("kind", ["crc32c", "sha256"])
def test_the_record_says_what_was_made_of_what(tmp_path, kind):
    convert(BERT, tmp_path / "out", max_shard_size="20KB", dtype="float16", checksum=kind)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    files = {file["name"]: file for file in record["source"]["files"]}
    assert files.keys() == {"bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"}
    for name, file in files.items():
        assert file == {"name": name, "size": (BERT / name).stat().st_size}
    index = (BERT / "bert_model.ckpt.index").read_bytes()
    assert record["source"]["index_sha256"] == sha256(index)
    assert record["model_type"] == "bert"
    assert record["rules"]["name"] == "bert"
    assert record["options"]["dtype"] == "float16"
    assert record["versions"]["tfreader"] == tfreader.__version__
    assert record["dropped"]["global_step"] == "training counter"
    by_name = {tensor["target"]: tensor for tensor in record["tensors"]}
    kernel = by_name["bert.pooler.dense.weight"]
    assert kernel["sources"] == ["bert/pooler/dense/kernel"]
    assert kernel["operations"] == "transpose, cast(float16)"
    stored = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safetensors.safe_open(path, "np") as weights:
            stored |= {name: (path.name, weights.get_tensor(name)) for name in weights.keys()}  # noqa: SIM118
    assert stored.keys() == by_name.keys()
    for name, (file, values) in stored.items():
        assert by_name[name]["file"] == file
        assert by_name[name]["shape"] == list(values.shape)
        assert by_name[name]["dtype"] == str(values.dtype)
        assert by_name[name][kind] == checksum(kind, values.tobytes())
    assert len({*by_name[name]} & {"crc32c", "sha256"}) == 1


def test_two_conversions_leave_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        convert(BERT, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_an_output_file_has_no_record_unless_asked(tmp_path):
    convert(BERT, tmp_path / "a.safetensors")
    convert(BERT, tmp_path / "b.bin", record=True)
    assert set(os.listdir(tmp_path)) == {"a.safetensors", "b.bin", "b.bin.conversion.json"}
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"a.safetensors.*no record"):
        verify_output(tmp_path / "a.safetensors")
    convert(BERT, tmp_path / "b.bin")  # the old record would be of another file
    assert set(os.listdir(tmp_path)) == {"a.safetensors", "b.bin"}


def test_a_record_of_another_checksum_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(tfreader.ConfigError, match="unknown checksum 'md5'; known: crc32c, sha256"):
        convert(tmp_path / "none", tmp_path / "out", checksum="md5")


def test_a_checksum_asked_for_where_there_is_no_record_is_told_of(tmp_path):
    report = convert(BERT, tmp_path / "a.safetensors", checksum="sha256")
    assert any("--checksum sha256: not used" in note for note in report.notes)
    report = convert(BERT, tmp_path / "a.safetensors", checksum="sha256", record=True)
    assert not any("--checksum" in note for note in report.notes)


@pytest.mark.parametrize("kind", ["crc32c", "sha256"])
@pytest.mark.parametrize("name", ["folder", "file.safetensors", "file.bin"])
def test_a_sound_output_is_in_order(tmp_path, name, kind):
    output = tmp_path / name
    report = convert(BERT, output, record=True, checksum=kind)
    assert verify_output(output).tensors == len(report.plan.entries)
    assert verify_against(output, BERT).nbytes == report.plan.nbytes


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def spoil_weights(out):
    flip(out / "model-00002-of-00003.safetensors", -1)


def truncate_weights(out):
    os.truncate(out / "model-00002-of-00003.safetensors", 5000)


def change_header(out):
    flip(out / "model-00002-of-00003.safetensors", 3)


def change_config(out):
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(text.replace("0.02", "0.03"))


def add_weights(out):
    shutil.copy(out / "model-00002-of-00003.safetensors", out / "model.safetensors")


def remove_weights(out):
    (out / "model-00001-of-00003.safetensors").unlink()


@pytest.mark.parametrize("kind", ["crc32c", "sha256"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (spoil_weights, "model-00002-of-00003.safetensors: tensor '.*': other bytes"),
        (truncate_weights, "model-00002-of-00003.safetensors: 5000 bytes, .* were written"),
        (change_header, "model-00002-of-00003.safetensors: damaged, or no safetensors file"),
        (change_config, "config.json: not as it was written"),
        (add_weights, "model.safetensors: not of this conversion"),
        (remove_weights, "model-00001-of-00003.safetensors: missing"),
    ],
)
def test_a_changed_output_is_noticed(tmp_path, harm, message, kind):
    convert(BERT, tmp_path / "out", max_shard_size="20KB", checksum=kind)
    harm(tmp_path / "out")
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["ok"]
    assert any(re.search(message, problem) for problem in report["problems"])


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    convert(BERT, folder / "out")
    return folder / "out"


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["conversion.json", "model.safetensors"]), data=st.data())
def test_whatever_bit_is_flipped_the_error_is_one_of_ours(converted, name, data):
    path = converted / name
    sound = path.read_bytes()
    spoilt = bytearray(sound)
    spoilt[data.draw(st.integers(0, len(sound) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(spoilt)
    try:
        verify_output(converted)
        verify_against(converted, BERT)
        assert name == "conversion.json"  # which says more than can be checked
    except tfreader.TFReaderError:
        pass
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 2}', '{"format_version": 1, "tensors": {}}']
)
def test_a_damaged_record_is_an_error(tmp_path, text):
    convert(BERT, tmp_path / "out")
    (tmp_path / "out" / "conversion.json").write_text(text)
    with pytest.raises(tfreader.CorruptCheckpointError, match="conversion.json"):
        verify_output(tmp_path / "out")
    assert not convert(BERT, tmp_path / "out", resume=True).skipped
    verify_output(tmp_path / "out")


def test_another_checkpoint_than_the_one_converted_is_noticed(tmp_path):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
    (tmp_path / "rules.toml").write_text(
        '[[rule]]\nsource = "(?P<n>.)"\ntarget = "{n}"\nops = ["transpose"]\nrequired = false\n'
        '[[rule]]\nsource = "b"\ntarget = "b"\n'.replace("(?P<n>.)", "(?P<n>a)")
    )
    prefix = write_bundle(tmp_path / "m", tensors)
    out = tmp_path / "out.safetensors"
    convert(prefix, out, rules=tmp_path / "rules.toml", record=True)
    (tmp_path / "rules.toml").unlink()  # the record has them
    assert verify_against(out, prefix).tensors == 2
    other = write_bundle(tmp_path / "other", tensors | {"a": tensors["a"] + 1})
    with pytest.raises(tfreader.ChecksumError) as caught:
        verify_against(out, other)
    first, second = caught.value.problems
    assert "another index" in first
    assert "tensor 'a': different (the largest difference is 1; 6 of 6 values)" in second


def test_the_rules_of_a_record_are_those_of_the_file_whatever_they_hold(tmp_path):
    prefix = write_bundle(tmp_path / "m", {"a/0": np.ones(2), "\x01b": np.ones(2)})
    (tmp_path / "rules.toml").write_text(
        '[[rule]]\nsource = "a/(?P<zähler>\\\\d+)"\ntarget = "{zähler}\\u0007\\u007f"\n'
        '[[drop]]\nsource = "\\u0001b"\nreason = "1\\n2\\r\\t\\"3\\\\"\n[counts]\n"zähler" = "n"\n'
    )
    convert(prefix, tmp_path / "out", rules=tmp_path / "rules.toml")
    assert verify_against(tmp_path / "out", prefix).tensors == 1


def test_verify_knows_what_was_converted(tmp_path):
    convert(KERAS, tmp_path / "out.bin", rules=KERAS / "rules.toml", record=True)
    run = CliRunner().invoke
    result = run(main, ["verify", str(tmp_path / "out.bin"), "--against", str(KERAS)])
    assert result.exit_code == 0, result.output
    assert "6 tensors" in result.output
    result = run(main, ["verify", str(BERT), "--against", str(BERT)])
    assert result.exit_code == 1
    assert "no PyTorch weights in it" in result.output


CHANGES = {
    "config": lambda source, out: (source / "bert_config.json").write_text(
        (source / "bert_config.json").read_text().replace("0.02", "0.01")
    ),
    "vocabulary": lambda source, out: (source / "vocab.txt").write_text("[PAD]\n" * 64),
    "lost weights": lambda source, out: (out / "model.safetensors").unlink(),
    "short weights": lambda source, out: os.truncate(out / "model.safetensors", 100),
    "lost config": lambda source, out: (out / "config.json").unlink(),
    "lost record": lambda source, out: (out / "conversion.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_changed_is_done_again(tmp_path, copy, change):
    source, out = copy(BERT), tmp_path / "out"
    convert(source, out)
    assert convert(source, out, resume=True).skipped
    change(source, out)
    assert not convert(source, out, resume=True).skipped
    assert convert(source, out, resume=True).skipped
    verify_output(out)
    verify_against(out, source)


def as_before_there_was_a_choice(out):
    """The record of an output as it was when all had a SHA-256 of every tensor, and paths."""
    path = out / "conversion.json"
    record = json.loads(path.read_text())
    assert record.pop("checksum") == "sha256"
    record["source"]["checkpoint"] = str(BERT / "bert_model.ckpt")
    for file in record["source"]["files"]:
        file |= {"modified": "2024-01-01T00:00:00.000000000Z", "etag": None}
    record["config"]["path"] = str(BERT / "bert_config.json")
    path.write_text(json.dumps(record))


def test_an_old_record_still_counts(tmp_path):
    out = tmp_path / "out"
    convert(BERT, out, checksum="sha256")
    as_before_there_was_a_choice(out)
    verify_output(out)
    verify_against(out, BERT)
    assert convert(BERT, out, resume=True).skipped
    assert convert(BERT, out, resume=True, checksum="sha256").skipped
    flip(out / "model.safetensors", -1)
    with pytest.raises(tfreader.ChecksumError, match="sha256"):
        verify_output(out)
    assert not convert(BERT, out, resume=True, dtype="float16").skipped
    assert json.loads((out / "conversion.json").read_text())["checksum"] == "crc32c"


def test_a_better_checksum_is_done_again_and_a_lesser_one_is_not(tmp_path):
    for skipped, options in ((0, {}), (0, {"checksum": "sha256"}), (1, {}), (1, {"record": True})):
        assert convert(BERT, tmp_path / "out", resume=True, **options).skipped == bool(skipped)


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("kind", ["v1", "gpt"])
def test_a_source_whose_values_changed_but_not_its_size_and_time(tmp_path, copy, kind, is_old):
    """As `rsync -t` and `tar` leave it, where nothing in the index depends on the values."""
    out = tmp_path / "out"
    if kind == "v1":
        (tmp_path / "rules.toml").write_text('[[rule]]\nsource = "x"\ntarget = "x"\n')
        options = {"rules": tmp_path / "rules.toml"}
        source = file = write_v1(tmp_path / "m", floats(1, 2, 3))
        changed = write_v1(tmp_path / "n", floats(1, 2, 4)).read_bytes()
    else:
        options = {"overrides": {"n_head": 1}}
        source = copy(DATA / kind)
        file = source / "params_3.npy"
        changed = file.read_bytes()[:-4] + bytes(4)
    convert(source, out, checksum="sha256" if is_old else "crc32c", **options)
    if is_old:
        as_before_there_was_a_choice(out)
    assert convert(source, out, resume=True, **options).skipped
    before = (out / "model.safetensors").read_bytes()
    status = file.stat()
    file.write_bytes(changed)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert not convert(source, out, resume=True, **options).skipped
    assert (out / "model.safetensors").read_bytes() != before


def test_other_options_and_rules_are_another_conversion(tmp_path):
    out = tmp_path / "out"
    options = [
        {},
        {"dtype": "float16"},
        {"overrides": {"hidden_act": "gelu_new"}},
        {"architecture": "BertModel"},
        {"ignore": ["global_step"]},
        {"max_shard_size": "20KB"},
    ]
    for option in options:
        assert not convert(BERT, out, resume=True, **option).skipped
        assert convert(BERT, out, resume=True, **option).skipped


def test_what_killed_conversions_left_is_removed_and_what_lives_is_not(tmp_path):
    dead, alive = (tmp_path / f".out.{name}.tmp" for name in ("0000dead", "0000a11e"))
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    lock = FileLock(alive.with_suffix(".lock"))
    lock.acquire()
    (tmp_path / ".out.backup.tmp").mkdir()  # not ours
    convert(BERT, tmp_path / "out")
    left = {"out", ".out.0000a11e.tmp", ".out.0000a11e.lock", ".out.backup.tmp"}
    assert set(os.listdir(tmp_path)) == left
    lock.release()
    assert convert(BERT, tmp_path / "out", resume=True).skipped
    assert set(os.listdir(tmp_path)) == {"out", ".out.backup.tmp"}


def test_nothing_of_an_earlier_conversion_stays(tmp_path, copy):
    source = copy(BERT)
    convert(source, tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("kept")
    (source / "vocab.txt").unlink()
    convert(source, tmp_path / "out")
    assert set(os.listdir(tmp_path / "out")) == {
        "config.json",
        "conversion.json",
        "mine.txt",
        "model.safetensors",
    }


def test_conversions_to_one_place_at_the_same_time_leave_one_of_them(tmp_path):
    """Whichever comes last: never some files of one and some of another."""
    kinds = [{"dtype": "float16"}, {"architecture": "BertModel"}, {"max_shard_size": "20KB"}]
    for name in ("folder", "file.safetensors"):
        output = tmp_path / "new" / name

        def work(options, output=output):
            for _ in range(12):
                convert(BERT, output, record=True, **options)

        with ThreadPoolExecutor(len(kinds)) as pool:
            for future in [pool.submit(work, options) for options in kinds]:
                future.result()
        verify_output(output)
        last = [convert(BERT, output, record=True, resume=True, **o) for o in kinds]
        assert sum(report.skipped for report in last) <= 1
        verify_output(output)


def test_the_checkpoints_own_folder_is_no_output(copy):
    source = copy(BERT)
    before = sorted(os.listdir(source))
    with pytest.raises(tfreader.OutputError, match="is the checkpoint itself, or its folder"):
        convert(source, source)
    assert sorted(os.listdir(source)) == before


def in_the_middle(action):
    """For `progress`: does it once some bytes are written."""

    def started(_):
        done = []

        def advance(_):
            if not done:
                done.append(action())

        return advance

    return started


def test_a_source_that_is_truncated_in_the_middle(tmp_path):
    tensors = {f"x/{i}": np.zeros((700, 1000), np.float32) for i in range(20)}
    prefix = write_bundle(tmp_path / "m", tensors)
    (tmp_path / "rules.toml").write_text('[[rule]]\nsource = "x/(?P<n>.*)"\ntarget = "{n}"\n')
    data = tmp_path / "m.data-00000-of-00001"
    with pytest.raises(tfreader.ChangedError, match="m.data.*changed while it was open"):
        convert(
            prefix,
            tmp_path / "outputs" / "out",
            rules=tmp_path / "rules.toml",
            progress=in_the_middle(lambda: os.truncate(data, 30_000_000)),
        )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", ["out", "out.safetensors", "out.bin"])
def test_an_output_folder_that_vanishes_in_the_middle(tmp_path, name):
    home = tmp_path / "outputs"
    with pytest.raises(tfreader.OutputError, match=name):
        convert(
            BERT,
            home / name,
            progress=in_the_middle(lambda: shutil.rmtree(home)),
        )
    assert not home.exists()


def test_every_family_is_recorded_and_verified(tmp_path):
    sources = {
        DATA / "gpt": {"overrides": {"n_head": 1}},
        DATA / "gpt2": {},
        DATA / "t5" / "v11": {},
        DATA / "xlm" / "causal": {},
        DATA / "albert" / "pretraining": {},
        DATA / "transfo_xl" / "lm1b": {},
    }
    for source, options in sources.items():
        out = tmp_path / source.name
        made = convert(source, out, **options)
        assert convert(source, out, resume=True, **options).skipped
        assert verify_output(out).tensors == len(made.plan.entries)
        verify_against(out, source)
