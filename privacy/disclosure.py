"""What a party tells its coordinator about itself, each field with its declared treatment.

A party's policy.toml says which sections it tells; one that it does not tell is null, and looks the
same whatever it would have held. Everything here follows from plans, the ledger, the party's own
settings and what has left already. Nothing is computed from a customer's data, and nothing counts
customers: `public_size` is the declared constant.

A disclosure travels as the JSON body of one signed request (`privacy.hosting.signed_requests`), so
the party can be held to what it said. `sequence` only ever grows, which makes a repeated one no
news. A test walks every class here and fails if a field has no treatment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privacy.errors import ProtocolError
from privacy.identity import PARTY_PATTERN, RUN_ID_PATTERN
from privacy.messages import Treatment, carries

PATH: Final = "/v1/disclosures"
MAX_DISCLOSURE_BYTES: Final = 64 * 1024
# Runs, models, plans and tags of one disclosure: the newest ones, so that it fits.
MAX_RUNS: Final = 64
MAX_PLANS: Final = 100
MAX_TAGS: Final = 32
MAX_LIMITS: Final = 32
# As far as the ledger counts how many more runs fit; it means that many or more.
MAX_RUNS_LEFT: Final = 10_000
SECTIONS: Final = ("status", "budget", "limits", "approvals", "tags", "models", "egress")

C, D, X = Treatment.CONSTANT, Treatment.DISCLOSED, Treatment.CHARGED
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunName = Annotated[str, Field(pattern=RUN_ID_PATTERN)]
Epsilon = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=0, le=10**15)]


class Told(BaseModel):
    """Base of all that is told: frozen, strict, and an unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class StatusTold(Told):
    """Which software runs there, the public size, and where the ledger ends."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_ -]{0,63}$")] = carries(
        D, "the installed version of fedtags"
    )
    bundle: Digest = carries(D, "SHA-256 of the Flower bundle that this installation accepts")
    public_size: Annotated[int, Field(ge=1, le=10**10)] = carries(
        D, "the party's declared public size, a constant of its settings"
    )
    ledger_position: Count = carries(D, "number of the ledger's newest entry")
    ledger_hash: Digest = carries(D, "hash of the ledger's newest entry")


class BudgetTold(Told):
    """The lifetime budget, for one customer at this party over all runs of this federation.

    `spent`: epsilon at `delta`, as if all runs had been fixed beforehand. `used`: the share that
    the ledger's filter has counted; a run beyond 1 is refused. `runs_left`: how many more runs
    like `last_run` would be admitted now; null before the first run. Where `limits` are told too
    it heeds them; otherwise it is of the lifetime budget alone.
    """

    epsilon: Epsilon = carries(D, "the lifetime budget of policy.toml")
    delta: Annotated[float, Field(gt=0, lt=1)] = carries(D, "the delta of that budget")
    spent: Epsilon = carries(D, "composed from mechanisms of plans, which are public constants")
    used: Annotated[float, Field(ge=0, le=1e9)] = carries(D, "the same as a share of the filter")
    last_run: RunName | None = carries(D, "the newest run that was charged")
    runs_left: Annotated[int, Field(ge=0, le=MAX_RUNS_LEFT)] | None = carries(
        D, "how many more runs of its mechanisms fit; follows from plans and budget"
    )


class LimitTold(Told):
    """A sub-limit of policy.toml with what is spent in its window now."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 _-]{0,62}$")] = carries(
        D, "the party's own name for it"
    )
    window: Literal["lifetime", "year", "quarter", "month"] = carries(D, "of policy.toml")
    purpose: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] | None = carries(
        D, "the runs' purpose that it covers; null covers all"
    )
    plan: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")] | None = carries(
        D, "the runs' plan that it covers; null covers all"
    )
    epsilon: Epsilon = carries(D, "of policy.toml")
    spent: Epsilon = carries(D, "composed from mechanisms of plans, which are public constants")


class ApprovalsTold(Told):
    """Plans that a person decides about. A refused one is in neither list."""

    waiting: Annotated[tuple[Digest, ...], Field(max_length=MAX_PLANS)] = carries(
        D, "hashes of plans that were asked for and wait for a person"
    )
    approved: Annotated[tuple[Digest, ...], Field(max_length=MAX_PLANS)] = carries(
        D, "hashes of plans of which a run would be admitted now"
    )


class TagTold(Told):
    """A joint tag of the shipped catalogue, and its state at this party."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = carries(
        C, "of the shipped catalogue"
    )
    state: Literal["draft", "listed", "frozen", "retired"] = carries(
        D, "a setting of the party's own catalogue; no customer's data"
    )


class ModelTold(Told):
    """A finished run whose model this party holds."""

    run: RunName = carries(D, "the run")
    plan: Digest = carries(D, "SHA-256 of its plan")
    model: Digest = carries(
        X, "SHA-256 of plan and parameters, which are made of noised, charged updates only"
    )


class RunSent(Told):
    """What left this party for one run, as its egress log counts it."""

    run: RunName = carries(D, "the run")
    messages: Count = carries(D, "messages that left, those sent again too")
    bytes: Count = carries(D, "their length, fixed by the plan")


class EgressTold(Told):
    """Totals of the egress log."""

    runs: Annotated[tuple[RunSent, ...], Field(max_length=MAX_RUNS)] = carries(
        D, "the newest runs, the newest first"
    )
    other_messages: Count = carries(D, "messages of no run: refusals and requests such as this")
    other_bytes: Count = carries(D, "their length")


class Disclosure(Told):
    """All that one party tells at one moment. A section that is null is not told."""

    format: Literal[1] = carries(C, "of this statement")
    federation: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")] = carries(
        C, "the federation that it is told to"
    )
    party: Annotated[str, Field(pattern=PARTY_PATTERN)] = carries(C, "the party that tells")
    sequence: Annotated[int, Field(ge=1, le=2**53)] = carries(
        D, "milliseconds since 1970 (UTC) when it was made; every later one has a higher number"
    )
    status: StatusTold | None = carries(D, "told by the policy's disclosure.status")
    budget: BudgetTold | None = carries(D, "told by the policy's disclosure.budget")
    limits: Annotated[tuple[LimitTold, ...], Field(max_length=MAX_LIMITS)] | None = carries(
        D, "told by the policy's disclosure.limits"
    )
    approvals: ApprovalsTold | None = carries(D, "told by the policy's disclosure.approvals")
    tags: Annotated[tuple[TagTold, ...], Field(max_length=MAX_TAGS)] | None = carries(
        D, "told by the policy's disclosure.tags"
    )
    models: Annotated[tuple[ModelTold, ...], Field(max_length=MAX_RUNS)] | None = carries(
        D, "the newest first; told by the policy's disclosure.models"
    )
    egress: EgressTold | None = carries(D, "told by the policy's disclosure.egress")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = (
            ("limits", [one.name for one in self.limits or ()]),
            ("tags", [one.name for one in self.tags or ()]),
            ("models", [one.run for one in self.models or ()]),
            ("egress", [one.run for one in (self.egress.runs if self.egress else ())]),
        )
        for section, names in named:
            if len(set(names)) != len(names):
                raise ValueError(f"{section}: each one once")
        return self

    @property
    def told(self) -> tuple[str, ...]:
        """The sections that are told."""
        return tuple(name for name in SECTIONS if getattr(self, name) is not None)

    def encoded(self) -> bytes:
        """The JSON body. Raises ProtocolError above MAX_DISCLOSURE_BYTES."""
        body = self.model_dump_json().encode()
        if len(body) > MAX_DISCLOSURE_BYTES:
            raise ProtocolError(f"a disclosure is at most {MAX_DISCLOSURE_BYTES} bytes")
        return body


# Every class whose fields may leave a party this way.
TOLD: Final[tuple[type[Told], ...]] = (
    Disclosure,
    StatusTold,
    BudgetTold,
    LimitTold,
    ApprovalsTold,
    TagTold,
    ModelTold,
    EgressTold,
    RunSent,
)


def read_disclosure(body: bytes) -> Disclosure:
    """Parse a disclosure. Raises ProtocolError naming the wrong fields, never a value."""
    if len(body) > MAX_DISCLOSURE_BYTES:
        raise ProtocolError(f"a disclosure is at most {MAX_DISCLOSURE_BYTES} bytes")
    try:
        return Disclosure.model_validate_json(body)
    except ValidationError as error:
        # A field that nobody knows is named by who sent it, so only the known part is shown.
        wrong = sorted({_known_part(one["loc"]) for one in error.errors(include_input=False)})
        raise ProtocolError(f"the disclosure is not valid in: {', '.join(wrong)}") from error


def treatments(disclosure: Disclosure) -> tuple[Treatment, ...]:
    """The treatments of all fields that are told, each once, in the order of `Treatment`."""
    found = set(_treatments(disclosure))
    return tuple(one for one in Treatment if one in found)


def _treatments(part: Told) -> Iterator[Treatment]:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if value is None:
            continue
        extra = field.json_schema_extra
        assert isinstance(extra, dict)  # a test walks every class
        yield Treatment(str(extra["treatment"]))
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Told):
                yield from _treatments(inner)


def _known_part(place: tuple[int | str, ...]) -> str:
    known = {name for kind in TOLD for name in kind.model_fields}
    return ".".join(str(one) for one in place if one in known) or "the body"
