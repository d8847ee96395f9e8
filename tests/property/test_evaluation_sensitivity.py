"""One held-out customer adds one to one cell of the released counts, whatever the parameters.

The released counts are charged at L2 sensitivity 1. A coordinator can steer the parameters, so that
many rows' logits lie on the edge between two cells: then a logit that depended on the other rows
by one rounding would move many customers at once.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation import score_histogram
from privacy.factorised import row_logits
from privacy.network import Dense, Network, Residual

WIDTH, BINS, BOUND = 24, 20, 4.0
NETWORKS = {
    "logistic": Network(WIDTH, (Dense(WIDTH, 1),)),
    "mlp": Network(WIDTH, (Dense(WIDTH, 32, True), Dense(32, 16, True), Dense(16, 1))),
    "residual": Network(WIDTH, (Dense(WIDTH, 16), Residual(16, 32), Dense(16, 1))),
}


@pytest.mark.parametrize("family", NETWORKS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 700), same=st.booleans())
def test_one_customer_moves_one_cell_by_one(family: str, seed: int, count: int, same: bool) -> None:
    network, rng = NETWORKS[family], np.random.default_rng(seed)
    features = rng.random((count, WIDTH), dtype=np.float32)
    if same:
        features[:] = features[0]
    parameters = rng.normal(0, 0.3, network.parameters_count)
    # The last parameter is the output's bias: put the first row's logit on an edge between cells.
    parameters[-1] -= row_logits(network, parameters, features[:1])[0]
    labels = rng.integers(0, 2, count).astype(np.float32)
    whole = row_logits(network, parameters, features)
    gone = int(rng.integers(count))
    rest = row_logits(network, parameters, np.delete(features, gone, axis=0))
    np.testing.assert_array_equal(rest, np.delete(whole, gone))
    before = score_histogram(whole, labels, BINS, BOUND)
    after = score_histogram(rest, np.delete(labels, gone), BINS, BOUND)
    assert np.abs(before - after).sum() == 1


@pytest.mark.parametrize("family", NETWORKS)
def test_logits_are_those_of_the_module(family: str) -> None:
    import torch

    network, rng = NETWORKS[family], np.random.default_rng(3)
    features = rng.random((300, WIDTH), dtype=np.float32)
    parameters = rng.normal(0, 0.3, network.parameters_count)
    module, start = network.module(), 0
    with torch.no_grad():
        for one in module.parameters():
            part = parameters[start : start + one.numel()]
            one.copy_(torch.from_numpy(part).reshape(one.shape))
            start += one.numel()
        expected = module(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(row_logits(network, parameters, features), expected, atol=1e-5)
