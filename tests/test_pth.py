"""Files of torch.save that cost more than they hold, or hold what has no plain bytes."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import DATA
from hypothesis import given
from hypothesis import strategies as st

from tfreader.errors import UnsupportedError
from tfreader.mapping.families.xlm import FAMILY
from tfreader.mapping.sources import pth
from tfreader.mapping.sources.pickle_cost import TooCostlyError, names_in

CAUSAL = next((DATA / "xlm").glob("**/*.pth"))
HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLE | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(HASHABLE, inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_of_every_protocol_asks_for_little(value, protocol):
    data = pickle.dumps(value, protocol)
    file = BytesIO(data + b"behind")
    names = names_in(file)
    assert file.read() == b"behind"
    assert names <= {"_codecs encode", "__builtin__ frozenset", "builtins frozenset"} | {
        "__builtin__ bytes",
        "builtins bytes",
    }


def test_a_large_dictionary_is_no_cost():
    words = {f"word-{i}": i for i in range(100_000)}
    assert names_in(BytesIO(pickle.dumps({"ids": words, "words": list(words)}, 2))) == set()


@given(st.binary(max_size=60))
def test_bytes_that_are_no_pickle_are_called_so(data):
    with suppress(pickle.UnpicklingError, TooCostlyError):
        names_in(BytesIO(data))


def nested_tuples():
    """Each tuple holds the last one twice; as a key, all of them are gone through."""
    steps = b""
    for i in range(60):
        steps += b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0"
    return b"\x80\x02}K\x01q\x000" + steps + b"h\x3cK\x00s."


def chained_calls():
    """A string of a megabyte, encoded again and again."""
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x00"
    call = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    return b"\x80\x02](" + text + call * 3000 + b"e."


def lists_that_grew():
    """A list that was empty when it was named is copied again and again."""
    items = b"]q\x00(" + b"K\x01" * 200_000 + b"e"
    return b"\x80\x02](" + items + b"ctorch\nSize\nh\x00\x85R" * 3000 + b"e."


def one_name_of_many():
    """An object that is named as if a billion had been before; Python keeps a table of names."""
    return b"\x80\x02}r\xff\xff\xff\x3f."


@pytest.mark.parametrize("make", [nested_tuples, chained_calls, lists_that_grew, one_name_of_many])
def test_a_pickle_that_costs_more_than_it_holds_is_refused_before_torch_reads_it(tmp_path, make):
    with pytest.raises(TooCostlyError):
        names_in(BytesIO(make()))
    (tmp_path / "costly.pth").write_bytes(make())
    with pytest.raises(UnsupportedError, match="refused, and nothing of it was run"):
        pth.load(pth.TorchFile(tmp_path / "costly.pth"))


def test_many_threads_load_at_once():
    def load(_):
        return pth.load(pth.TorchFile(CAUSAL))["params"]["n_heads"]

    before = torch.serialization.get_safe_globals()
    with ThreadPoolExecutor(8) as pool:
        heads = set(pool.map(load, range(40)))
    assert len(heads) == 1
    assert set(torch.serialization.get_safe_globals()) == set(before)


def saved(tmp_path, tensor):
    torch.save({"model": {"embeddings.weight": tensor}}, tmp_path / "model.pth")
    return FAMILY.open(tmp_path / "model.pth")


def test_values_that_are_kept_negated_or_conjugated_are_read(tmp_path):
    complex_values = torch.tensor([1 + 2j, 3 - 4j])
    checkpoint = saved(tmp_path, torch.conj(complex_values).imag)
    np.testing.assert_array_equal(checkpoint["embeddings.weight"], [-2, 4])
    checkpoint = saved(tmp_path, torch.conj(complex_values))
    np.testing.assert_array_equal(checkpoint["embeddings.weight"], [1 - 2j, 3 + 4j])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused(tmp_path):
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(UnsupportedError, match=r"embeddings\.weight"):
        saved(tmp_path, nested)
