"""What the desk answers with: plain values for the API and the console.

Times carry their zone (UTC). Every epsilon is for one customer at this party, added or removed, at
the delta beside it. A count of None was withheld because fewer than SMALLEST_CELL customers are
in it, or because it would give such a count away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from party_client.egress import EgressEntry
from privacy.hosting.access import Token
from privacy.hosting.access_log import AccessRecord

SMALLEST_CELL = 20
PAGE_SIZE = 50


@dataclass(frozen=True)
class ChainView:
    """A hash-chained file of the node. `name`: 'ledger', 'egress' or 'access'; `whole`: every byte
    is as it was written; `head`: SEQUENCE:HASH to keep elsewhere, empty if there is none."""

    name: str
    whole: bool
    head: str


@dataclass(frozen=True)
class Overview:
    """How the node stands. `budget_used`: share of the lifetime budget, 0 to 1 and more;
    `quality_share`: share of rows that the newest check found usable."""

    party: str
    federation: str | None
    members: int
    members_confirmed: int
    running: bool
    service_up: bool
    supernode_up: bool
    waiting_plans: int
    epsilon_budget: float
    epsilon_spent: float
    budget_used: float
    delta: float
    last_run: str | None
    last_run_state: str | None
    last_run_two_party: str | None
    last_report_at: str | None
    quality_share: float | None
    quality_at: datetime | None
    chains: tuple[ChainView, ...]
    bundle: str


@dataclass(frozen=True)
class ReasonView:
    """One of up to three reasons for a value, in plain words."""

    code: str
    text: str
    text_zh: str


@dataclass(frozen=True)
class TagView:
    """One tag of one customer, with where it comes from. `kind`: computed by this party alone
    ('local') or with others ('joint'); `model_digest` names the model or the rules. `receipt`
    names the state of consent that the value was written under."""

    tag: str
    display_name: str
    display_name_zh: str
    dimension: str
    value: str
    value_zh: str
    score: float | None
    reasons: tuple[ReasonView, ...]
    kind: str
    valid_until: date
    published_at: datetime
    as_of: date
    run_id: str
    model_digest: str
    parties: tuple[str, ...]
    epsilon: float
    delta: float
    receipt: str


@dataclass(frozen=True)
class CustomerView:
    """What may be read about one customer for `purpose` now. `customer` is masked for those who
    may not see ids. Without tags, `why` says so in one sentence that does not tell a customer who
    withheld consent from one who is unknown."""

    customer: str
    masked: bool
    purpose: str
    tags: tuple[TagView, ...]
    why: str | None


@dataclass(frozen=True)
class HistoryView:
    """An earlier value of a customer's tag, and the run that replaced it."""

    tag: str
    display_name: str
    display_name_zh: str
    value: str
    value_zh: str
    valid_until: date
    published_at: datetime
    run_id: str
    replaced_by: str | None


@dataclass(frozen=True)
class SegmentView:
    """The customers of this party whose `tag` has `value` and may be read for `purpose`."""

    tag: str
    display_name: str
    display_name_zh: str
    dimension: str
    value: str
    value_zh: str
    purpose: str
    customers: int | None


@dataclass(frozen=True)
class ParticipationView:
    """A model version that a customer took part in ('trained' or 'evaluated')."""

    run_id: str
    plan: str
    model_digest: str | None
    role: str
    at: datetime


@dataclass(frozen=True)
class OptOutView:
    """A customer's tags and history are gone and a re-import does not bring them back. `models`
    keep what they learned: an opt-out is not unlearning. `repeated`: it had been honoured before.
    """

    customer: str
    opted_out_at: datetime
    repeated: bool
    models: tuple[ParticipationView, ...]
    unlearned: Literal[False] = False


@dataclass(frozen=True)
class LimitView:
    """A sub-limit of the policy: its window, and what counts in it now."""

    name: str
    applies_to: str
    window: str
    window_now: str
    epsilon: float
    spent: float


@dataclass(frozen=True)
class RunView:
    """One run in the ledger. `two_party`: what it means that a sum had two participants."""

    run: str
    plan: str
    plan_digest: str
    purpose: str
    epsilon: float
    status: str
    reserved_at: datetime
    expires: datetime | None
    two_party: str | None


@dataclass(frozen=True)
class BudgetView:
    """The lifetime budget with its sub-limits. `used` decides; `spent` composes what is charged as
    if it had been fixed beforehand. `policy_waits`: policy.toml names another budget, which holds
    from the next start on."""

    epsilon: float
    delta: float
    order: float
    spent: float
    used: float
    gaps: int
    limits: tuple[LimitView, ...]
    open_runs: tuple[RunView, ...]
    policy_waits: bool


@dataclass(frozen=True)
class LedgerLine:
    """One ledger entry in words."""

    line: int
    time: datetime
    run: str
    what: str
    status: str


@dataclass(frozen=True)
class LedgerPage:
    """Entries, newest first; `runs` are those that the page names. Pages count from 1."""

    lines: tuple[LedgerLine, ...]
    runs: tuple[RunView, ...]
    page: int
    pages: int
    head: str


@dataclass(frozen=True)
class EgressPage:
    """Messages that left, newest first. Pages count from 1; `kinds` are all that ever left."""

    lines: tuple[EgressEntry, ...]
    kinds: tuple[str, ...]
    page: int
    pages: int
    head: str


@dataclass(frozen=True)
class PersonRemoved:
    """A person was removed. `tokens`: names of API tokens that this person made; they stay valid
    until somebody revokes them."""

    name: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class NewToken:
    """An API token just made. `secret` is in this answer and nowhere else."""

    token: Token
    secret: str


@dataclass(frozen=True)
class AccessPage:
    """Lines, newest first. Pages count from 1."""

    lines: tuple[AccessRecord, ...]
    page: int
    pages: int
