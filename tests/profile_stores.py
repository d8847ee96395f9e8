"""Made-up customers and publications for tests of the profile store, on each database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from models.tag_catalogue import Catalogue, load_catalogue
from party_client.consent import ConsentRow
from party_client.profile_store import ProfileStore, Publication, TagBatch
from privacy.hosting.sealing import CipherName, Sealing

SECRET = bytes(range(32))
NOW = datetime(2024, 7, 1, 9, 30, tzinfo=UTC)
TODAY = NOW.date()
FIRST = Publication(
    run_id="run-1",
    kind="joint",
    plan_digest="a" * 64,
    model_digest="b" * 64,
    parties=("bank", "retailer", "shop"),
    epsilon=1.9,
    delta=1e-5,
    published_at=NOW,
    as_of=date(2024, 6, 30),
    valid_until=TODAY + timedelta(days=90),
)
SECOND = replace(
    FIRST, run_id="run-2", model_digest="c" * 64, valid_until=TODAY + timedelta(days=120)
)
THIRD = replace(FIRST, run_id="run-3", model_digest="d" * 64)
PURPOSE = "marketing"
OTHER_PURPOSE = "retention"
CHURN, PROPENSITY = "churn_risk", "purchase_propensity"
Row = tuple[str, str, float]


def catalogue(overlay: Path | None = None) -> Catalogue:
    return load_catalogue(overlay)


def sqlite_url(file: Path) -> str:
    return f"sqlite:///{file}"


def opened(
    url: str,
    *,
    secret: bytes = SECRET,
    cipher: CipherName = "aes-256-gcm",
    events: bool = False,
    known: Catalogue | None = None,
) -> ProfileStore:
    return ProfileStore(url, Sealing(secret, cipher), known or catalogue(), events=events)


def batch(rows: Sequence[Row], tag: str = CHURN) -> TagBatch:
    """(customer, value, score) of one tag."""
    return TagBatch(
        tag,
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        ["recency,frequency,tenure"] * len(rows),
    )


def many(count: int, value: str = "low", score: float = 0.25) -> TagBatch:
    return batch([(f"c{number:05}", value, score) for number in range(count)])


def yes(customers: Iterable[str], purpose: str = "*") -> list[ConsentRow]:
    return [ConsentRow(customer, purpose, True, None, None, None) for customer in customers]
