"""What goes into a profile store and what comes out: plain frozen values.

Everything here stays inside the party. Times have a zone (UTC); days are UTC days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

Kind = Literal["joint", "local"]
Role = Literal["trained", "evaluated"]


@dataclass(frozen=True)
class Publication:
    """Where a set of tags comes from. Its tags appear together or not at all.

    run_id: the run's, or a name of its own for local tags; never used twice. plan_digest,
    model_digest: SHA-256 in hex; for local tags there is no plan, and `model_digest` names the
    rules. `epsilon` at `delta` is what the run cost a customer at this party (0 for local tags).
    as_of: the day that the tags speak about. valid_until: the last day on which they may be used;
    None: each tag's own `valid_days` of the catalogue, from the day of `published_at`.
    """

    run_id: str
    kind: Kind
    plan_digest: str | None
    model_digest: str
    parties: tuple[str, ...]
    epsilon: float
    delta: float
    published_at: datetime
    as_of: date
    valid_until: date | None = None


@dataclass(frozen=True)
class TagBatch:
    """One tag of many customers, each at most once in a publication; all sequences equally long.

    values: None takes the tag away from a customer to whom it does not apply any more.
    scores: each in [0, 1], or None for a tag without a score. reasons: "code1,code2,code3" each, or
    None. Give the batches of one set of customers one after the other with the very same
    `customers`: their keys are then computed once.
    """

    tag: str
    customers: Sequence[str]
    values: Sequence[str | None]
    scores: Sequence[float] | None = None
    reasons: Sequence[str] | None = None


@dataclass(frozen=True)
class Published:
    """What a publication did, for this party's own eyes: no message has a field for it."""

    written: int
    opted_out: int
    without_consent: int
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Provenance:
    """Where one stored tag comes from. `consent_receipt`: SHA-256 in hex naming the state of
    consent under which it was written. status: "published"."""

    run_id: str
    kind: Kind
    plan_digest: str | None
    model_digest: str
    parties: tuple[str, ...]
    epsilon: float
    delta: float
    published_at: datetime
    as_of: date
    consent_receipt: str
    status: str


@dataclass(frozen=True)
class TagRecord:
    """One tag of one customer. `replaced_by`: the run that replaced it, in a history only."""

    customer: str
    tag: str
    value: str
    score: float | None
    reasons: tuple[str, ...]
    valid_until: date
    provenance: Provenance
    replaced_by: str | None = None


@dataclass(frozen=True)
class Profile:
    """What may be read about one customer for one purpose now.

    `tags` is empty unless `consent` stands and the customer is not `opted_out`.
    """

    customer: str
    purpose: str
    consent: bool
    opted_out: bool
    tags: tuple[TagRecord, ...]


@dataclass(frozen=True)
class SegmentCount:
    """How many customers have a value, exactly: local, and small ones are withheld by the desk."""

    tag: str
    value: str
    count: int


@dataclass(frozen=True)
class Participation:
    """A model that a customer had taken part in. `model_digest`: None if the run never ended."""

    run_id: str
    plan: str
    plan_digest: str
    model_digest: str | None
    role: Role
    at: datetime


@dataclass(frozen=True)
class OptOut:
    """A customer's opt-out as recorded. It does not unlearn: `models` are as they were."""

    customer: str
    at: datetime
    models: tuple[Participation, ...]
    repeated: bool


@dataclass(frozen=True)
class Event:
    """One entry of the outbox: what a webhook tells. `data`: what JSON can hold."""

    id: int
    event_id: str
    type: str
    created_at: datetime
    data: Mapping[str, Any]
    attempts: int
