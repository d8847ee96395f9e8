"""The three public shops come out with the sizes and base rates that were published for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.catalogue import input_width
from models.plan import read_plan
from party_client.sources import open_source
from privacy.errors import ConfigError
from simulations.public_shops import PARTIES, shop_sources

PLANS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
# eligible customers, churn at 60 days, bought again within 30 days
PUBLISHED = {
    "grocer": (2416, 0.085, 0.838),
    "musicshop": (7249, 0.694, 0.182),
    "giftshop": (2772, 0.509, 0.328),
}

pytestmark = pytest.mark.data


@pytest.mark.parametrize("party", PARTIES)
def test_a_public_shop_has_its_published_size_and_base_rates(
    party: str, public_data: Path, tmp_path: Path
) -> None:
    eligible, churn_rate, propensity_rate = PUBLISHED[party]
    churn_plan, _ = read_plan(PLANS / "shops-churn.toml")
    propensity_plan, _ = read_plan(PLANS / "shops-propensity.toml")
    with open_source(shop_sources(public_data)[party], tmp_path) as source:
        churn = source.training_examples(churn_plan, party)
        propensity = source.training_examples(propensity_plan, party)
        scored = source.scoring_examples(churn_plan, party)
        report = source.check()
    assert churn.labels is not None
    assert propensity.labels is not None
    assert churn.features.shape == (eligible, input_width(churn_plan))
    assert propensity.features.shape == (eligible, input_width(propensity_plan))
    assert float(churn.labels.mean()) == pytest.approx(churn_rate, abs=0.001)
    assert float(propensity.labels.mean()) == pytest.approx(propensity_rate, abs=0.001)
    assert scored.customer_ids
    assert report.consent_asserted


def test_the_giftshop_reads_the_overlapping_days_once_and_sets_aside_what_it_cannot_use(
    public_data: Path, tmp_path: Path
) -> None:
    with open_source(shop_sources(public_data)["giftshop"], tmp_path) as source:
        report = source.check()
    # 22,523 lines of 1-9 December 2010 stand in both files.
    assert report.rejected["outside_file_dates"] == 22_523
    assert report.rejected["missing_customer"] > 0
    assert report.rejected_file is not None
    assert report.rejected_file.stat().st_mode & 0o777 == 0o600


def test_a_missing_shop_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"complete_journey/transactions\.parquet"):
        shop_sources(tmp_path)
