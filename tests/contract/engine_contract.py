"""What every `privacy.engine.Engine` owes, whatever computes it: the sensitivity rule above all."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from models.families import network
from models.plan import Model
from privacy.dp_sgd import load_parameters
from privacy.engine import MAX_CHUNK_ROWS, Engine
from privacy.errors import PrivacyError
from privacy.network import Dense, Network, Residual

WIDTH = 6
NETWORKS = {
    "logistic": network(Model(), WIDTH),
    "mlp": network(Model(family="mlp", hidden=(5, 4)), WIDTH),
    "wide mlp": network(Model(family="mlp", hidden=(33,)), WIDTH),
    "deep mlp": network(Model(family="mlp", hidden=(7, 5, 4, 3)), WIDTH),
    "residual": network(Model(family="residual", hidden=(6, 4)), WIDTH),
    "deep residual": network(Model(family="residual", hidden=(8, 5, 3, 8)), WIDTH),
    "block first": Network(WIDTH, (Residual(WIDTH, 3), Dense(WIDTH, 4, relu=True), Dense(4, 1))),
}
# So wide that an engine takes few rows at once.
BROAD = network(Model(family="mlp", hidden=(900,)), WIDTH)
# What rounding in float64 may add to the clipping norm; mechanism.sensitivity_slack covers more.
ROUNDING = 1e-11
Rows = tuple[NDArray[np.float32], NDArray[np.float32]]

every_network = pytest.mark.parametrize("name", NETWORKS)
examples = settings(
    max_examples=20,
    deadline=None,
    # The suite is inherited: each class runs the same properties.
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
seeds = st.integers(0, 2**32 - 1)
norms = st.sampled_from([1e-3, 0.5, 1.0, 10.0])
weights = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 30.0])


def drawn(count: int, seed: int, scale: float = 1.0, columns: int = WIDTH) -> Rows:
    """`count` ordinary rows."""
    rng = np.random.default_rng(seed)
    features = (rng.normal(0, scale, (count, columns))).astype(np.float32)
    return features, rng.integers(0, 2, count).astype(np.float32)


def parameters_of(shape: Network, seed: int, scale: float = 0.5) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, scale, shape.parameters_count)


# Rows of any finite float32 numbers, the largest and the subnormal among them, between ordinary
# ones: fewer and more than what a kernel's vectors or an engine's chunk hold.
rows = st.one_of(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.just(WIDTH)), elements=finite),
    st.builds(
        lambda count, seed, scale: drawn(count, seed, scale)[0],
        st.integers(1, 70),
        seeds,
        st.sampled_from([1e-30, 1e-3, 1.0, 30.0, 1e20]),
    ),
)


class EngineContract:
    """Inherit and give `engine`: the engine over a network and rows."""

    @staticmethod
    def engine(
        shape: Network, features: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> Engine:
        raise NotImplementedError

    @every_network
    @given(features=rows, one=rows, norm=norms, scale=weights, seed=seeds)
    @examples
    def test_one_customer_moves_the_clipped_sum_by_at_most_the_norm(
        self,
        name: str,
        features: NDArray[np.float32],
        one: NDArray[np.float32],
        norm: float,
        scale: float,
        seed: int,
    ) -> None:
        """Whoever comes, into whatever batch, at whatever place of the table."""
        rng = np.random.default_rng(seed)
        place = int(rng.integers(0, len(features) + 1))
        labels = rng.integers(0, 2, len(features)).astype(np.float32)
        more = np.insert(features, place, one[0], axis=0)
        more_labels = np.insert(labels, place, rng.integers(0, 2)).astype(np.float32)
        parameters = parameters_of(NETWORKS[name], seed, scale)
        batch = rng.permutation(len(features))[: rng.integers(0, len(features) + 1)]
        grown = np.append(batch + (batch >= place), place)

        without = self.engine(NETWORKS[name], features, labels).clipped_sum(parameters, batch, norm)
        engine = self.engine(NETWORKS[name], more, more_labels)
        with_one = engine.clipped_sum(parameters, grown, norm)
        assert np.linalg.norm(with_one - without) <= norm * (1 + ROUNDING)
        # And it moves it by what it gives alone: nobody else's share depends on who else is there.
        alone = engine.clipped_sum(parameters, np.array([place]), norm)
        assert np.linalg.norm(with_one - without - alone) <= norm * ROUNDING

    @every_network
    @pytest.mark.parametrize("scale", [0.1, 1.0])
    def test_clipped_sum_equals_a_loop_over_examples_by_autograd(
        self, name: str, scale: float
    ) -> None:
        features, labels = drawn(40, 3, scale)
        parameters = parameters_of(NETWORKS[name], 3)
        model = NETWORKS[name].module().double()
        load_parameters(model, parameters)
        expected = np.zeros_like(parameters)
        norm, clipped = 0.7, 0
        for x, y in zip(features, labels, strict=True):
            logit = model(torch.from_numpy(x[None]).double())
            loss = binary_cross_entropy_with_logits(logit, torch.tensor([y]).double())
            parts = torch.autograd.grad(loss, list(model.parameters()))
            gradient = torch.cat([one.reshape(-1) for one in parts]).numpy()
            clipped += np.linalg.norm(gradient) > norm
            expected += gradient * min(1.0, norm / max(np.linalg.norm(gradient), 1e-300))
        assert scale < 1 or clipped > 5
        engine = self.engine(NETWORKS[name], features, labels)
        found = engine.clipped_sum(parameters, np.arange(40), norm)
        assert np.linalg.norm(found - expected) <= 1e-6 * norm * np.sqrt(40)

    @every_network
    def test_an_empty_batch_sums_to_zero(self, name: str) -> None:
        shape = NETWORKS[name]
        for count in (0, 4):
            engine = self.engine(shape, *drawn(count, 0))
            found = engine.clipped_sum(parameters_of(shape, 0), np.zeros(0, dtype=np.int64), 1.0)
            assert found.shape == (shape.parameters_count,)
            assert not found.any()

    @pytest.mark.parametrize(
        "shape", [NETWORKS["logistic"], NETWORKS["residual"], BROAD], ids=["small", "deep", "broad"]
    )
    @pytest.mark.parametrize(
        "count", [127, 129, MAX_CHUNK_ROWS, MAX_CHUNK_ROWS + 1, 2 * MAX_CHUNK_ROWS + 1]
    )
    def test_a_batch_may_end_anywhere_in_a_chunk(self, shape: Network, count: int) -> None:
        """The sum of a batch is the sum of its parts, whatever the parts."""
        engine = self.engine(shape, *drawn(count, 5))
        parameters = parameters_of(shape, 5)
        order = np.random.default_rng(5).permutation(count)
        parts = [engine.clipped_sum(parameters, one, 1.0) for one in np.split(order, [1, 20, 85])]
        whole = engine.clipped_sum(parameters, order, 1.0)
        assert np.linalg.norm(whole) > 1
        assert np.linalg.norm(whole - np.sum(parts, axis=0)) <= count * ROUNDING

    def test_the_order_of_a_batch_changes_nothing(self) -> None:
        shape = NETWORKS["mlp"]
        engine = self.engine(shape, *drawn(50, 6))
        order = np.random.default_rng(6).permutation(50)
        one = engine.clipped_sum(parameters_of(shape, 6), order, 1.0)
        other = engine.clipped_sum(parameters_of(shape, 6), np.sort(order), 1.0)
        assert np.array_equal(one, other)

    def test_a_row_whose_gradient_overflows_moves_nothing_and_is_not_told(self) -> None:
        # Ten layers of weights of 1e38 overflow float64, too.
        layers = [Dense(WIDTH, 2, relu=True), *[Dense(2, 2, relu=True)] * 8, Dense(2, 1)]
        shape = Network(WIDTH, tuple(layers))
        weights = [[1e38] * (one.inputs * one.outputs) + [0.0] * one.outputs for one in layers]
        parameters = np.concatenate(weights)
        features, labels = np.zeros((6, WIDTH), dtype=np.float32), np.zeros(6, dtype=np.float32)
        features[5] = 3e38
        engine = self.engine(shape, features, labels)
        without = engine.clipped_sum(parameters, np.arange(5), 1.0)
        assert np.linalg.norm(without) > 1
        assert np.array_equal(engine.clipped_sum(parameters, np.arange(6), 1.0), without)
        assert not engine.clipped_sum(parameters, np.array([5]), 1.0).any()

    def test_rows_are_not_copied(self) -> None:
        features, labels = drawn(50_000, 0, columns=100)
        shape = network(Model(), 100)
        tracemalloc.start()
        engine = self.engine(shape, features, labels)
        engine.clipped_sum(parameters_of(shape, 0), np.arange(0, 50_000, 100), 1.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < features.nbytes / 2

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_features_that_are_not_finite_are_refused(self, bad: float) -> None:
        features, labels = drawn(9000, 0)
        features[8999, 3] = bad
        with pytest.raises(PrivacyError, match="not finite"):
            self.engine(NETWORKS["logistic"], features, labels)

    @pytest.mark.parametrize("bad", [0.5, 2.0, -1.0, np.nan])
    def test_labels_other_than_zero_and_one_are_refused(self, bad: float) -> None:
        features, labels = drawn(4, 0)
        labels[2] = bad
        with pytest.raises(PrivacyError, match="0 or 1"):
            self.engine(NETWORKS["logistic"], features, labels)

    def test_wrong_shapes_and_types_are_refused_by_name(self) -> None:
        shape = NETWORKS["mlp"]
        features, labels = drawn(4, 0)
        for wrong in (
            (features[0], labels),
            (features, labels[:3]),
            (features, labels[:, None]),
        ):
            with pytest.raises(PrivacyError, match=r"features must be \(n, k\) and labels \(n,\)"):
                self.engine(shape, *wrong)
        with pytest.raises(PrivacyError, match=r"5 columns|6 columns"):
            self.engine(shape, np.ascontiguousarray(features[:, :5]), labels)
        with pytest.raises(PrivacyError, match="float32"):
            self.engine(shape, features.astype(np.float64), labels)  # type: ignore[arg-type]

    @pytest.mark.parametrize("size", [-1, 1])
    def test_parameters_of_another_network_are_refused(self, size: int) -> None:
        shape = NETWORKS["mlp"]
        engine = self.engine(shape, *drawn(4, 0))
        wrong = np.zeros(shape.parameters_count + size)
        with pytest.raises(PrivacyError, match="number of parameters"):
            engine.clipped_sum(wrong, np.arange(4), 1.0)

    @pytest.mark.parametrize(
        ("batch", "message"), [([1, 2, 1], "at most once"), ([0, 4], "rows"), ([-1, 2], "rows")]
    )
    def test_a_row_twice_or_outside_the_table_is_refused(
        self, batch: list[int], message: str
    ) -> None:
        """A row that counted twice would move the sum by twice the norm."""
        shape = NETWORKS["logistic"]
        engine = self.engine(shape, *drawn(4, 0))
        with pytest.raises(PrivacyError, match=message):
            engine.clipped_sum(parameters_of(shape, 0), np.array(batch), 1.0)
