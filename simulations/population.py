"""A simulated market: three parties, shared customers, traits that drive activity and churn.

Everything here is simulated. No record describes a person, and a figure measured on it says how
the software behaves, not how a market does. The same size and seed give the same files.

Each person has traits that nobody sees: how often they buy (`pace`), `loyalty`, `spend`, `price`
sensitivity, `night` (buys late) and, at each party, a day on which they stop (`leaves`), sooner for
the price sensitive and the disloyal. Buying slows down in the weeks before the stop, which is what
a model can learn from. The three logs differ in column names, format, encoding and dirt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from party_client.source_settings import ConsentSettings, SourceSettings
from simulations.market_files import write_bank, write_ecommerce, write_retailer

PARTIES = ("retailer", "bank", "ecommerce")
FIRST_DAY = date(2023, 7, 1)
LAST_DAY = date(2025, 6, 30)
DAYS = (LAST_DAY - FIRST_DAY).days + 1
CONSENT_RATE = 0.9


@dataclass(frozen=True)
class Habits:
    """How a party's customers behave: public constants of the simulation.

    pace: median purchase days in 30 days. spread: sigma of log pace. stay: median days until a
    customer stops. basket: median amount of a purchase. lines: mean events in a purchase day.
    """

    pace: float
    spread: float
    stay: float
    basket: float
    lines: float
    categories: tuple[str, ...]
    channels: tuple[str, ...]


_DEPARTMENTS = "Épicerie Crèmerie Boulangerie Légumes Boissons Hygiène Maison Bébé Jouets Textile"
_MERCHANTS = "groceries fuel travel dining utilities health insurance cash"
_GOODS = "手机 服装 家电 食品 图书 美妆 运动 玩具 母婴"
HABITS: Mapping[str, Habits] = {
    "retailer": Habits(
        pace=0.75,
        spread=1.0,
        stay=370,
        basket=32,
        lines=1.6,
        categories=tuple(_DEPARTMENTS.split()),
        channels=("store", "click&collect", "delivery"),
    ),
    "bank": Habits(
        pace=0.9,
        spread=1.0,
        stay=370,
        basket=55,
        lines=1.8,
        categories=tuple(_MERCHANTS.split()),
        channels=("card", "app", "branch"),
    ),
    "ecommerce": Habits(
        pace=0.75,
        spread=0.9,
        stay=370,
        basket=45,
        lines=1.4,
        categories=tuple(_GOODS.split()),
        channels=("web", "app", "mini-program"),
    ),
}


@dataclass(frozen=True)
class Log:
    """One party's clean simulated events, in order of time. All arrays have one entry an event.

    customer: index of the person. second: seconds since FIRST_DAY. amount: currency units,
    negative for a refund. category, channel: indices into the party's lists.
    """

    customer: NDArray[np.int64]
    second: NDArray[np.int64]
    amount: NDArray[np.float64]
    refund: NDArray[np.bool_]
    category: NDArray[np.int64]
    channel: NDArray[np.int64]


@dataclass(frozen=True)
class _People:
    pace: NDArray[np.float64]
    loyalty: NDArray[np.float64]
    spend: NDArray[np.float64]
    price: NDArray[np.float64]
    night: NDArray[np.float64]

    def __getitem__(self, chosen: NDArray[np.int64]) -> _People:
        return _People(
            self.pace[chosen],
            self.loyalty[chosen],
            self.spend[chosen],
            self.price[chosen],
            self.night[chosen],
        )


def write_market(
    folder: Path, customers_per_party: int = 5000, seed: int = 20250701
) -> dict[str, SourceSettings]:
    """Write folder/PARTY/events.* and consent.csv for each party; return their source settings.

    Paths in the settings are relative to folder/PARTY, so they hold where that is the party's own
    folder. The data is simulated.
    """
    logs, members = simulate(customers_per_party, seed)
    random = np.random.default_rng((seed, 1))
    written = {}
    for party, write in (
        ("retailer", write_retailer),
        ("bank", write_bank),
        ("ecommerce", write_ecommerce),
    ):
        home = folder / party
        home.mkdir(parents=True, exist_ok=True)
        settings = write(home, logs[party], HABITS[party], random)
        agreed = random.random(members[party].size) < CONSENT_RATE
        lines = ["customer_id,consent"]
        lines += [
            f"P{person:06d},{'yes' if yes else 'no'}"
            for person, yes in zip(members[party].tolist(), agreed.tolist(), strict=True)
        ]
        (home / "consent.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        consent = ConsentSettings(path="consent.csv", customer="customer_id", granted="consent")
        written[party] = settings.model_copy(update={"consent": consent})
    return written


def simulate(
    customers_per_party: int, seed: int
) -> tuple[dict[str, Log], dict[str, NDArray[np.int64]]]:
    """Every party's clean log and the persons it knows: of three persons it knows one."""
    random = np.random.default_rng((seed, 0))
    size = 3 * customers_per_party
    traits = random.standard_normal((5, size))
    people = _People(*traits)
    logs: dict[str, Log] = {}
    members: dict[str, NDArray[np.int64]] = {}
    for party in PARTIES:
        known = np.sort(random.choice(size, customers_per_party, replace=False)).astype(np.int64)
        members[party] = known
        logs[party] = _events(people[known], known, HABITS[party], random)
    return logs, members


def _events(
    people: _People, known: NDArray[np.int64], habits: Habits, random: np.random.Generator
) -> Log:
    n = known.size
    # Half of what decides a pace or a stop is the person's, the rest this party's own.
    own = random.standard_normal((2, n))
    pace = habits.pace * np.exp(habits.spread * (0.7 * people.pace + 0.7 * own[0]))
    hazard = np.exp(0.7 * people.price - 0.7 * people.loyalty + 0.3 * people.night + 0.3 * own[1])
    joins = np.where(random.random(n) < 0.2, 0, random.random(n) ** 0.5 * DAYS * 0.72)
    leaves = joins + random.exponential(habits.stay / np.log(2), n) / hazard
    fades = 10 + 80 * random.random(n)
    rate = np.minimum(pace, 20) / 30
    stay = np.minimum(leaves, DAYS) - joins
    count = random.poisson(rate * np.maximum(stay, 0))
    who = np.repeat(np.arange(n), count)
    day = joins[who] + random.random(who.size) * stay[who]
    kept = random.random(who.size) < np.clip((leaves[who] - day) / fades[who], 0, 1)
    season = 0.8 + 0.2 * np.cos(2 * np.pi * (day + 181 - 355) / 365.25)
    kept &= random.random(who.size) < season
    who, day = who[kept], day[kept]
    lines = 1 + random.poisson(habits.lines - 1, who.size)
    who, day = np.repeat(who, lines), np.floor(np.repeat(day, lines)).astype(np.int64)
    late = random.random(who.size) < 1 / (1 + np.exp(1.8 - 1.2 * people.night[who]))
    hour = np.where(late, random.integers(20, 28, who.size) % 24, random.integers(8, 20, who.size))
    second = day * 86400 + hour * 3600 + random.integers(1, 3600, who.size)
    amount = habits.basket * np.exp(
        0.5 * people.spend[who] - 0.25 * people.price[who] + 0.6 * random.standard_normal(who.size)
    )
    width = np.clip(2 + 2 * (people.loyalty[who] + 1), 1, len(habits.categories))
    category = (known[who] * 7 + np.floor(random.random(who.size) * width)).astype(np.int64)
    chosen = random.random(who.size) < 0.25 + 0.1 * np.clip(people.loyalty[who], -2, 2)
    channel = np.where(chosen, random.integers(0, len(habits.channels), who.size), known[who] % 2)
    refund = random.random(who.size) < 0.03 * np.exp(0.5 * people.price[who])
    order = np.argsort(second, kind="stable")
    inside = order[(second[order] >= 0) & (second[order] < DAYS * 86400)]
    return Log(
        customer=known[who][inside],
        second=second[inside],
        amount=np.round(np.where(refund, -amount, amount), 2)[inside],
        refund=refund[inside],
        category=(category % len(habits.categories))[inside],
        channel=channel[inside].astype(np.int64),
    )
