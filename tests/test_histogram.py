from __future__ import annotations

import numpy as np
import pytest

from tfreader.histogram import BINS, Histogram


def histogram_of(*parts):
    found = Histogram()
    for part in parts:
        found.add(np.asarray(part))
    return found.to_data()


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).normal(0, 0.02, 10_000).astype(np.float32),
        np.random.default_rng(2).uniform(1e6, 1e6 + 1e-3, 1000),
        np.array([0.0]),
        np.array([-3.0] * 5),
        np.array([8e307, -8e307, 0]),
        np.array([5e-324, 0]),
        np.array([5e-324, 8e307]),
        np.arange(-7, 3),
        np.array([2**62, -(2**62)]),
    ],
)
def test_it_counts_what_numpy_counts_in_those_bins(values):
    found = histogram_of(values)
    assert sum(found["counts"]) == values.size
    assert found["low"] <= values.min() and values.max() <= found["high"]
    bins = len(found["counts"])
    assert bins <= BINS
    assert np.ptp(values / 2) < 1e-300 or bins > BINS / 4
    edges = np.array(found["low"]) + np.arange(bins + 1) * (
        found["high"] / bins - found["low"] / bins
    )
    expected = np.histogram(values, edges)[0]
    assert np.abs(np.cumsum(expected) - np.cumsum(found["counts"])).max() <= 1  # on an edge


def test_parts_in_any_order_give_the_same_counts():
    random = np.random.default_rng(3)
    parts = [random.normal(0, scale, 100) for scale in (1e-3, 10, 0.1, 1e5, 1)]
    whole = histogram_of(np.concatenate(parts))
    assert histogram_of(*parts) == histogram_of(*reversed(parts))
    assert len(whole["counts"]) == len(histogram_of(*parts)["counts"])
    assert histogram_of(*parts) == whole
    assert histogram_of([1e5] * 3, [1e5 + 1e-3]) == histogram_of([1e5 + 1e-3, 1e5, 1e5, 1e5])
    assert histogram_of([0.0], [1e-20, 2e-20]) == histogram_of([1e-20, 0, 2e-20])
    assert histogram_of([1.7e308], [-1.7e308])["counts"][0] == 1
    assert histogram_of([], [1.0], []) == histogram_of([1.0])


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-3.0],
        [1e5, 1e5 + 1e-3],
        [5e-324],
        [8e307, -8e307],
        *np.random.default_rng(4).uniform(-(2.0**62), 2.0**62, (20, 2)).tolist(),
    ],
)
def test_it_can_be_made_of_its_data_and_merged(values):
    data = histogram_of(values)
    assert Histogram.of(data).to_data() == data
    found = Histogram.of(data)
    found.merge(Histogram.of(histogram_of([1.0, 2.0])))
    assert found.to_data() == histogram_of(values, [1.0, 2.0])


def test_without_values_there_is_none():
    assert histogram_of(np.zeros(0, np.float32)) is None
