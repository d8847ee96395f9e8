"""A party's home with customers, consents and tags, and its desk: for tests of desk and API.

Of 90 customers c001..c090: c001..c040 are at high churn risk, c041..c085 at medium, c086..c090 at
low. All consent to every purpose, but c040 to retention alone. c200 consents and has no tag; c999
is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from party_client.consent import ConsentRow
from party_client.desk import Desk, open_desk
from party_client.people import open_access
from party_client.profile_records import Publication, TagBatch
from party_client.profile_store import open_profile_store
from party_client.settings import PartySettings, load_settings
from party_client.setup import initialise
from privacy.hosting.access import Access, Principal

HIGH = [f"c{number:03}" for number in range(1, 41)]
MEDIUM = [f"c{number:03}" for number in range(41, 86)]
LOW = [f"c{number:03}" for number in range(86, 91)]
EVERYONE = [*HIGH, *MEDIUM, *LOW]
RETENTION_ONLY = "c040"
WITHOUT_TAGS = "c200"
PURPOSE = "marketing"

ADMIN, OPERATOR, MARKETER, REVIEWER = (
    Principal(f"a-{role}", role, "person", "10.0.0.9")
    for role in ("admin", "operator", "marketer", "reviewer")
)


@dataclass(frozen=True)
class Opened:
    """A home that is open."""

    settings: PartySettings
    access: Access
    desk: Desk


def make_home(folder: Path) -> PartySettings:
    """A new home with events, consents and the tags of one run."""
    home = folder / "bank"
    initialise(home, "bank", 1000)
    settings_file = home / "party.toml"
    text = settings_file.read_text(encoding="utf-8")
    text = text.replace('path = "events.parquet"', 'path = "events.csv"').replace(
        "[profile_store]",
        "[source.consent]\n"
        'path = "consent.csv"\ncustomer = "customer"\ngranted = "granted"\npurpose = "purpose"\n\n'
        "[profile_store]",
        1,
    )
    settings_file.write_text(text, encoding="utf-8")
    events = [f"{one},2024-05-{1 + n % 28:02}T10:00:00,12.50" for n, one in enumerate(EVERYONE)]
    (home / "events.csv").write_text("\n".join(["customer,time,amount", *events]) + "\n")
    write_consents(home, [*EVERYONE, WITHOUT_TAGS])
    settings = load_settings(home)
    store = open_profile_store(settings)
    now = datetime.now(UTC).replace(microsecond=0)
    rows = [(one, "*" if one != RETENTION_ONLY else "retention") for one in EVERYONE]
    store.set_consents(
        ConsentRow(one, purpose, True, None, None, None)
        for one, purpose in [*rows, (WITHOUT_TAGS, "*")]
    )
    store.publish(
        Publication(
            run_id="run-1",
            kind="joint",
            plan_digest="a" * 64,
            model_digest="b" * 64,
            parties=("bank", "retailer", "shop"),
            epsilon=1.9,
            delta=1e-5,
            published_at=now,
            as_of=now.date(),
            valid_until=now.date() + timedelta(days=90),
        ),
        [
            TagBatch(
                "churn_risk",
                EVERYONE,
                ["high"] * len(HIGH) + ["medium"] * len(MEDIUM) + ["low"] * len(LOW),
                [0.9] * len(HIGH) + [0.5] * len(MEDIUM) + [0.1] * len(LOW),
                None,
            )
        ],
    )
    store.close()
    return settings


def write_consents(home: Path, customers: list[str]) -> None:
    """Let the source's consent table name these; c040 for retention alone."""
    rows = [
        f"{one},yes,{purpose}"
        for one in customers
        for purpose in (("retention",) if one == RETENTION_ONLY else ("retention", "marketing"))
    ]
    (home / "consent.csv").write_text("\n".join(["customer,granted,purpose", *rows]) + "\n")


@contextmanager
def opened(settings: PartySettings) -> Iterator[Opened]:
    """The home's desk, closed afterwards."""
    access = open_access(settings)
    desk = open_desk(settings, access)
    try:
        yield Opened(settings, access, desk)
    finally:
        desk.close()
        access.close()
