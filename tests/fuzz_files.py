"""Targets of the fuzzer for what is read but checkpoints: rules, jobs, configs, records, folders.

Each takes an input's bytes and an empty folder. TFReaderErrors pass; another exception does not,
nor a file that was lost, changed, or got into an output it has no business in.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

import tfreader
from tfreader.cli.jobs import from_file, from_glob
from tfreader.cli.main import main
from tfreader.cli.options import pairs
from tfreader.mapping import convert, make_plan
from tfreader.mapping.config_keys import every_key
from tfreader.mapping.families import families
from tfreader.mapping.places import RECORD
from tfreader.mapping.records.audit import verify_against, verify_output
from tfreader.mapping.rules.dump import dump_rules
from tfreader.mapping.rules.rule_file import parse_rules

DATA = Path(__file__).resolve().parent / "data"
EXAMPLES = DATA.parent.parent / "examples"
BERT, KERAS = EXAMPLES / "bert-tiny", EXAMPLES / "keras-regressor"
CLASSIFIER = EXAMPLES / "tf-classifier"
MODELS = sorted({BERT, CLASSIFIER, *(path.parent for path in DATA.rglob("forward.npz"))})
VOCABULARIES = ("vocab.txt", "spiece.model", "encoder.json", "vocab.bpe", "merges.txt")
OTHERS = ("config.json", "params.yaml", "keras_metadata.pb", "operative_config.gin", "vocab_x.txt")
TEXTS = {".json", ".yaml", ".gin", ".txt", ".bpe", ".pb", ""}  # suffixes of files beside
LONGEST = 20_000  # letters of an error


@contextmanager
def refused(*others: type[Exception]) -> Iterator[None]:
    """Let errors pass that are right, with a message that can be read."""
    try:
        yield
    except (tfreader.TFReaderError, *others) as error:
        assert len(str(error)) < LONGEST


def rules(data: bytes, folder: Path) -> None:
    """A rule file."""
    with refused():
        found = parse_rules(data.decode(errors="ignore"), "fuzz")
        assert parse_rules(dump_rules(found), "fuzz") == found
        model = BERT if found.extends else KERAS
        with tfreader.open(model) as checkpoint:
            make_plan(checkpoint, rules=found)
        convert(model, folder / "out.safetensors", rules=found, record=True)
        verify_against(folder / "out.safetensors", model)


def jobs(data: bytes, folder: Path) -> None:
    """A file of jobs, its ending by the first byte."""
    suffix = (".jsonl", ".toml", ".csv")[data[0] % 3] if data else ".csv"
    path = folder / f"jobs{suffix}"
    path.write_bytes(data[1:])
    with refused(click.UsageError):
        for job in from_file(str(path), {"ignore": ("x",), "set": {"dropout": 0.1}}):
            assert job.tf_checkpoint and job.pytorch_dump_output


def beside(data: bytes, folder: Path) -> None:
    """A file beside a checkpoint: model, file, then its contents, or edits of those it has."""
    model, file, how = data[:3].ljust(3, b"\0")
    path = MODELS[model % len(MODELS)]
    names = side_files(path)
    name = names[file % len(names)]
    copied(path, folder / "model")
    contents = (path / name).read_bytes() if (path / name).exists() else b""
    if how % 2 == 0:
        contents = data[3:]
    elif name.endswith(".json"):
        contents = edited(json.loads(contents or b"{}"), data[3:])
    else:
        contents = spliced(contents, data[3:])
    (folder / "model" / name).write_bytes(contents)
    converted(source_in(folder / "model"), folder / "out")


def settings(data: bytes, folder: Path) -> None:
    """Values of --set, one a line, for a model by the first byte."""
    model = MODELS[data[0] % len(MODELS)] if data else BERT
    with refused(click.BadParameter):
        converted(
            source_in(model),
            folder / "out",
            overrides=pairs(data[1:].decode(errors="replace").split("\n")),
        )


def records(data: bytes, folder: Path) -> None:
    """The record of an output among whose files is one of the user's: edits of it, or all of it."""
    out = folder / "out"
    for name, contents in output_of(BERT).items():
        out.mkdir(exist_ok=True)
        (out / name).write_bytes(contents)
    thesis = out / "thesis.txt"
    thesis.write_bytes(b"my own")
    record = json.loads((out / RECORD).read_bytes())
    record["files"][thesis.name] = {"size": 6, "sha256": sha256(b"my own").hexdigest()}
    how, data = data[:1], data[1:]
    (out / RECORD).write_bytes(edited(record, data) if how in (b"", b"\1") else data)
    with refused():
        verify_output(out)
    with refused():
        verify_against(out, BERT)
    with refused():
        convert(BERT, out, resume=True)
    converted(BERT, out)
    assert thesis.read_bytes() == b"my own"


def folders(data: bytes, folder: Path) -> None:
    """What lies around a checkpoint and where the output goes: a place, a name and a kind each."""
    (folder / "secret").write_bytes(SECRET)
    root = folder / "root"
    copied(BERT, root / "model")
    (root / "out").mkdir()
    for place, name, kind in zip(data[::3], data[1::3], data[2::3], strict=False):
        home = root / ("model", "out", "", "model/sub")[place % 4]
        path = home / NAMES[name % len(NAMES)]
        with suppress(OSError):
            home.mkdir(exist_ok=True)
            make = KINDS[kind % len(KINDS)]
            if make is not _moved:
                _removed(path)
            make(path)
    before = listing(folder)
    model, out = str(root / "model"), str(root / "out")
    for arguments in (["inspect", model], ["verify", model], ["verify", out]):
        result = CliRunner().invoke(main, arguments)
        assert "This is a bug" not in result.output, result.output
    with refused(click.UsageError):
        for job in from_glob([f"{root}/**"], str(root / "batch"), {})[:3]:
            with refused():
                convert(job.tf_checkpoint, job.pytorch_dump_output, dry_run=True)
    assert listing(folder) == before
    written = converted(model, root / "out")
    after = listing(folder)
    lost = {path for path in before if after.get(path) != before[path]} - written
    assert not lost, lost
    assert written or after == before, after.keys() ^ before.keys()
    for path in written:
        assert not path.is_symlink() and SECRET not in path.read_bytes(), path


SECRET = b"[UNK]\nsecret of the user's\n"


def _removed(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def _moved(path: Path) -> None:
    path.rename(path.with_name("moved"))


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _sparse(path: Path) -> None:
    with open(path, "ab") as file:
        file.truncate(1 << 40)


def _deep(path: Path) -> None:
    for _ in range(60):
        path.mkdir()
        path = path / "d"


def _record_of_all(path: Path) -> None:
    """A record that says of the files beside it that a conversion wrote them."""
    files = {
        file.name: {"size": file.stat().st_size, "sha256": sha256(file.read_bytes()).hexdigest()}
        for file in path.parent.iterdir()
        if file.is_file() and file.stat().st_size < 1 << 20
    }
    path.write_text(json.dumps({**json.loads(output_of(BERT)[RECORD]), "files": files}))


KINDS: tuple[Callable[[Path], Any], ...] = (
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"junk"),
    lambda path: path.write_bytes(b"{}"),
    lambda path: path.write_bytes((BERT / "bert_config.json").read_bytes()),
    lambda path: path.write_bytes((BERT / "vocab.txt").read_bytes()),
    lambda path: path.write_bytes((BERT / "bert_model.ckpt.index").read_bytes()),
    lambda path: path.write_bytes(b'model_checkpoint_path: "../../secret"'),
    lambda path: path.write_bytes(b'model_checkpoint_path: "bert_model.ckpt"'),
    lambda path: path.write_bytes(output_of(BERT)[RECORD]),
    lambda path: path.write_bytes(output_of(BERT).get(path.name, b"ours")),
    _removed,
    lambda path: path.mkdir(),
    _moved,
    os.mkfifo,
    _sparse,
    _deep,
    _record_of_all,
    _link("../../secret"),
    _link("../secret"),
    _link("."),
    _link(".."),
    _link("bert_config.json"),
    _link("nowhere"),
    _link("/dev/zero"),
    _link("/dev/null"),
    _link("/proc/self/mem"),
    lambda path: path.symlink_to(path.name),
)
NAMES = (
    *(path.name for path in sorted(BERT.iterdir())),
    *VOCABULARIES,
    *OTHERS,
    *("bert_config_x.json", "parameters_names.json", "bert_model.ckpt", "saved_model.pb", "moved"),
    *("variables", "variables/variables.index", "assets", "assets/vocab.txt", "sub", "x\n\x1b[1m"),
    *("bert_model.ckpt.data-00001-of-00002", "bert_model.ckpt.meta", "x_temp"),
    *(
        RECORD,
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "README.md",
    ),
    *("tokenizer_config.json", "thesis.txt", "model.safetensors.index.json"),
    *("tf_model.h5", "tf_model.h5.index.json", "tf_model-00001-of-00002.h5", "saved_model/1"),
)


def listing(folder: Path) -> Mapping[Path, Any]:
    """All that lies below a folder, and what it is."""
    found = {}
    for home, names, files in os.walk(folder):
        for path in (Path(home, name) for name in (*names, *files)):
            status = path.lstat()
            contents: Any = None
            if path.is_symlink():
                contents = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                small = status.st_size < 1 << 20
                contents = path.read_bytes() if small else status.st_mtime_ns
            found[path] = stat.S_IFMT(status.st_mode), contents
    return found


def converted(source: Path | str, out: Path, **options: Any) -> set[Path]:
    """The files of a conversion; none where it was refused."""
    with refused():
        planned = convert(source, out, dry_run=True, **options)
        report = convert(source, out, **options)
        assert report.files == planned.files
        json.loads((out / "config.json").read_bytes(), parse_constant=lambda name: 1 // 0)
        verify_output(out)
        return set(map(Path, report.files))
    return set()


@cache
def output_of(model: Path) -> Mapping[str, bytes]:
    """The files of an output."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        convert(model, Path(folder) / "out", max_shard_size="40KB")
        return {path.name: path.read_bytes() for path in (Path(folder) / "out").iterdir()}


def source_in(folder: Path) -> Path:
    return next(folder.glob("*.pth"), folder)


def copied(model: Path, to: Path) -> None:
    shutil.copytree(model, to, ignore=shutil.ignore_patterns("*.npz"), dirs_exist_ok=True)


@cache
def side_files(model: Path) -> tuple[str, ...]:
    """The names of small files that lie beside a checkpoint, or might."""
    own = {path.name for path in model.iterdir() if path.is_file() and path.suffix in TEXTS}
    usual = {name for family in families().values() for name in family.config_files}
    return tuple(sorted({*own, *usual, *VOCABULARIES, *OTHERS}))


VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 32, 64, 0.5, -0.0, 1e-12, 1e308),
    *(float("inf"), float("nan"), 1 << 31, 1 << 63, 10**400, "", "x", "gelu", "../../x", "\0"),
    *(
        "\ud800",
        "ü" * 999,
        "1",
        "0.1",
        "true",
        "null",
        "[",
        "relu",
        "bert",
        "float16",
        "thesis.txt",
    ),
    *([], [[]], [1], [1, 2, 3], [True], ["x", "y"], ["x", 1], [0.5], {}, {"a": 1}, {"0": "x"}),
    *({"1": "x", "0": "y"}, {"x": "0"}, {"": {}}, [{"size": 6}], {"size": 6}, {"size": -1}),
)
KEYS = (*sorted(every_key()), "", "x", "norm_first", "thesis.txt", "text", "\0", "ä", "a.b", "1")


def edited(value: Any, edits: bytes) -> bytes:
    """The value as JSON after edits, three bytes each: which place, what to put there."""
    for one, two, what in zip(edits[::3], edits[1::3], edits[2::3], strict=False):
        places = list(_places(value))
        holder, key = places[(one << 8 | two) % len(places)]
        if isinstance(holder, dict) and key is None:
            key = KEYS[(one << 8 | two) % len(KEYS)]
        new = json.loads(json.dumps(VALUES[what % len(VALUES)]))  # a copy: later edits change it
        if what == 255:
            holder.pop(key, None) if isinstance(holder, dict) else holder.clear()
        elif key is None:
            holder.append(new)
        else:
            holder[key] = new
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder of a JSON value with each of its keys, and with None for a new one."""
    if isinstance(value, dict | list):
        yield value, None
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def spliced(contents: bytes, edits: bytes) -> bytes:
    """The contents after edits, four bytes each: where, how many bytes to replace, and by which."""
    for one, two, size, byte in zip(*(edits[i::4] for i in range(4)), strict=False):
        start = (one << 8 | two) % (len(contents) + 1)
        contents = contents[:start] + bytes([byte]) * (size > 7) + contents[start + size % 8 :]
    return contents


def seeds() -> Iterator[tuple[Callable[[bytes, Path], None], bytes]]:
    """Inputs that are right."""
    for family in ("bert", "transfo-xl", "t5"):
        yield rules, dump_rules(families()[family].layouts[0].usual()).encode()
    yield rules, (KERAS / "rules.toml").read_bytes()
    yield (
        rules,
        b'extends = "bert"\n[[rule]]\nsource = \'dense/kernel\'\ntarget = "classifier.weight"',
    )
    yield jobs, b'\0{"tf_checkpoint": "a", "pytorch_dump_output": "b", "set": {"c": [1]}}\n'
    yield jobs, b'\1[[job]]\ntf-checkpoint = "a"\npytorch-dump-output = "b"\nignore = ["x", "y"]\n'
    yield (
        jobs,
        b'\2tf_checkpoint,pytorch_dump_output,set,dtype\na,b,"{""c"": 1}",float16\na,c,k=v,\n',
    )
    for i, model in enumerate(MODELS):
        yield settings, bytes([i]) + b'hidden_dropout_prob=0.2\nid2label=["a", "b"]'
        for j, name in enumerate(side_files(model)):
            if (model / name).exists():
                yield beside, bytes([i, j, 0]) + (model / name).read_bytes()[:4000]
                yield beside, bytes([i, j, 1, 0, 1, 2])
    yield records, b""
    yield records, b"\1\0\3\2"
    for i in range(len(KINDS)):
        yield folders, bytes([0, 7 * i, i, 1, 5 * i, i, 2, 3 * i, i])
