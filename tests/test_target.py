"""What a PyTorch model has, from whatever tells it."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from tfreader import TFReaderError
from tfreader.mapping.target import TargetTensor, read_target

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(3, 3), persistent=False)

def build():
    return Net()

def values():
    net = Net()
    float(net.head.weight.detach().sum())
    return net

def needs(size):
    return Net()

def text():
    return "no module"

def lazy():
    return nn.LazyLinear(3)

def leaves():
    raise SystemExit(3)

number = 3
"""
NET = {
    "embed.weight": TargetTensor((5, 4), "float32"),
    "norm.weight": TargetTensor((4,), "float32"),
    "norm.bias": TargetTensor((4,), "float32"),
    "norm.running_mean": TargetTensor((4,), "float32"),
    "norm.running_var": TargetTensor((4,), "float32"),
    "norm.num_batches_tracked": TargetTensor((), "int64"),
    "head.weight": TargetTensor((5, 4), "float32", same_as="embed.weight"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_net", None)
    assert str(tmp_path) not in sys.path


@pytest.fixture
def net(folder):
    space = {}
    exec(SOURCE, space)
    return space["build"]()


def untied(tensors):
    return {name: tensor._replace(same_as=None) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", ["build", "Net", "values"])
def test_a_callable_that_gives_the_module(folder, name):
    found = read_target(f"own_net:{name}")
    assert found == NET and list(found) == list(NET)


def test_the_module_and_its_state_dict(net):
    assert read_target(net) == NET
    assert read_target(net.state_dict()) == NET
    assert read_target(net.to("meta").state_dict()) == untied(NET)
    assert read_target({"a": (2, 3)}) == {"a": TargetTensor((2, 3))}


def wrapped(state):
    return {"epoch": 3, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("contents", [lambda state: state, wrapped])
def test_files_of_torch_save(folder, net, contents, legacy, monkeypatch):
    torch.save(contents(net.state_dict()), "net.pth", _use_new_zipfile_serialization=not legacy)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = read_target("net.pth")
    assert found == NET and list(found) == list(NET)


def test_safetensors_files_and_folders_of_shards(folder, net):
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file(state, "net.safetensors")
    assert read_target("net.safetensors") == untied(NET)
    (folder / "model").mkdir()
    first, second = dict(list(state.items())[:3]), dict(list(state.items())[3:])
    save_file(first, "model/model-00001-of-00002.safetensors")
    save_file(second, "model/model-00002-of-00002.safetensors")
    places = dict.fromkeys(first, "model-00001-of-00002.safetensors")
    places |= dict.fromkeys(second, "model-00002-of-00002.safetensors")
    (folder / "model/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert read_target("model") == untied(NET)
    assert list(read_target(folder / "model")) == sorted(NET)


def test_lists_of_names_and_shapes(folder):
    (folder / "a.json").write_text('{"a": {"shape": [2, 3], "dtype": "float16"}, "b": []}')
    assert read_target("a.json") == {"a": TargetTensor((2, 3), "float16"), "b": TargetTensor(())}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("own_net:needs", "calling it without arguments raised TypeError"),
        ("own_net:text", "a str, expected a torch.nn.Module"),
        ("own_net:lazy", "'weight' has no shape before the first input"),
        ("own_net:leaves", "raised SystemExit: 3"),
        ("own_net:number", "a int, expected a function or class"),
        ("own_net:absent", "AttributeError"),
        ("no_such_module:build", "ModuleNotFoundError"),
        ("models/own_net.py:build", "models.resnet:build of models/resnet.py"),
        ("absent.safetensors", "not there; expected a .safetensors file"),
        (".", "could be meant: name the file"),
        ("empty", "no PyTorch weights in it"),
        ("bad.json", "cannot be read as JSON"),
        ("list.json", "expected names and shapes"),
        ("shape.json", "'a' has no shape"),
        ("negative.json", "'a' has no shape"),
        ("empty.json", "no tensors"),
        ("bad.safetensors", "no safetensors file"),
        ("cut.safetensors", "(truncated?)"),
        ("bad.pth", "bad.pth"),
        ("module.pth", "nothing of it was run"),
        ("two.pth", "found several: model, ema"),
        ("none.pth", "found none"),
    ],
)
def test_what_is_no_target_is_refused(folder, net, target, said):
    (folder / "empty").mkdir()
    (folder / "bad.json").write_text("{")
    (folder / "list.json").write_text("[]")
    (folder / "shape.json").write_text('{"a": "2x3"}')
    (folder / "negative.json").write_text('{"a": {"shape": [2, -3]}}')
    (folder / "empty.json").write_text("{}")
    (folder / "bad.safetensors").write_bytes(b"\xff" * 64)
    (folder / "cut.safetensors").write_bytes((200).to_bytes(8, "little") + b'{"a": {"dt')
    (folder / "bad.pth").write_bytes(b"PK\3\4 nothing")
    torch.save(torch.nn.Linear(2, 3), "module.pth")
    torch.save({"model": net.state_dict(), "ema": net.state_dict()}, "two.pth")
    torch.save([1, 2], "none.pth")
    with pytest.raises(TFReaderError) as caught:
        read_target(target)
    assert said in str(caught.value) and target in str(caught.value)
