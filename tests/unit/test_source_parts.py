"""A large log is taken a part of its customers at a time, which changes no row."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from models.plan import parse_plan
from party_client import sources
from party_client.source_settings import SourceSettings
from party_client.sources import Examples, SourceReport, open_source

PLAN = parse_plan(
    b"""
format = 1
name = "p"
purpose = "x"
task = { kind = "churn", horizon_days = 60, eligible_days = 120, cutoff = 2024-07-01 }
privacy = { epsilon = 1.0 }
"""
)
LOG = SourceSettings(
    path="log.csv", columns={"customer": "who", "time": "at", "amount": "sum", "type": "kind"}
)
# Code points and UTF-16 units sort these differently, and so would a locale.
NAMES = (
    "Zoë",
    "zoe",
    "café",
    "cafe",
    "客户",
    "顾客",
    "\U0001f600",
    "\uffee",
    "a'b",
    "a b",
    "10",
    "9",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    lines = ["who,at,sum,kind"]
    for number in range(200):
        for day in range(1, 2 + number % 5):
            who = f"{NAMES[number % len(NAMES)]}{number}"
            lines.append(f"{who},2024-{1 + day:02d}-{1 + number % 28:02d},{number}.25,sale")
            if number % 2:
                lines.append(f"{who},2024-07-{day + 1:02d},{number}.50,sale")
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def asked(home: Path) -> tuple[Examples, Examples, SourceReport]:
    with open_source(LOG, home, today=date(2024, 12, 31)) as source:
        return (
            source.training_examples(PLAN, "bank"),
            source.scoring_examples(PLAN, "bank"),
            source.check(),
        )


@pytest.mark.parametrize("rows", [90, 350])
def test_parts_give_the_rows_that_the_whole_gives(
    home: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    whole = asked(home)
    monkeypatch.setattr(sources, "PART_ROWS", rows)
    parts = asked(home)
    for one, other in zip(whole[:2], parts[:2], strict=True):
        assert one.customer_ids == other.customer_ids == sorted(one.customer_ids)
        assert np.array_equal(one.features, other.features)
        assert (one.clamped, one.consented) == (other.clamped, other.consented)
    assert whole[0].labels is not None
    assert parts[0].labels is not None
    assert np.array_equal(whole[0].labels, parts[0].labels)
    assert whole[2] == parts[2]
