"""The simulated market: the same each time, learnable, and dirty on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.evaluation import auc
from models.plan import read_plan
from party_client.sources import open_source
from simulations.population import PARTIES, simulate, write_market

PLANS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("market")


def test_the_same_seed_writes_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    first = write_market(tmp_path / "one", 200)
    second = write_market(tmp_path / "two", 200)
    write_market(tmp_path / "three", 200, seed=1)
    assert first == second
    for party, settings in first.items():
        for name in (settings.path, "consent.csv"):
            one, two, three = (
                (tmp_path / folder / party / str(name)).read_bytes()
                for folder in ("one", "two", "three")
            )
            assert one == two, (party, name)
            assert one != three, (party, name)


def test_parties_share_customers() -> None:
    _, members = simulate(1000, 1)
    assert {party: known.size for party, known in members.items()} == dict.fromkeys(PARTIES, 1000)
    shared = np.intersect1d(members["retailer"], members["bank"]).size
    assert 200 < shared < 500


def test_every_party_has_dirt_consent_and_sensible_base_rates(market: Path) -> None:
    churn_plan, _ = read_plan(PLANS / "market-churn.toml")
    propensity_plan, _ = read_plan(PLANS / "market-propensity.toml")
    seen: set[str] = set()
    for party, settings in write_market(market, 2000).items():
        with open_source(settings, market / party) as source:
            report = source.check()
            churn = source.training_examples(churn_plan, party)
            propensity = source.training_examples(propensity_plan, party)
            refunds = source._db.execute(
                "SELECT count(*) FROM events WHERE amount_cents < 0 OR type = 'return'"
            ).fetchone()
        seen |= set(report.rejected)
        assert 0.85 < report.consented / report.customers < 0.95
        assert sum(report.rejected.values()) < 0.03 * report.rows_read
        assert refunds[0] > 0
        assert churn.labels is not None
        assert propensity.labels is not None
        assert 0.22 < churn.labels.mean() < 0.45, party
        assert 0.25 < propensity.labels.mean() < 0.5, party
        # One column alone already tells something; that a model learns more is tested elsewhere.
        assert (auc(churn.features[:, 0].astype(np.float64), churn.labels) or 0) > 0.65, party
    assert seen == {
        "undecodable_text",
        "missing_customer",
        "impossible_time",
        "future_time",
        "missing_amount",
        "unparsable_amount",
        "duplicate_row",
    }
