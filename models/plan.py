"""The plan: what a run does, in TOML, validated, hashed. Its hash is its identity.

Both sides read the same bytes. Every value in a plan is a public constant; a seed, a state of a
random generator or a threshold on private data has no field here, and an unknown key is refused.
"""

from __future__ import annotations

import hashlib
import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.catalogue import catalogue_columns
from models.features import FeatureColumn, Name
from privacy.ciphertexts import MAX_PARTIES
from privacy.errors import ConfigError, PlanError
from privacy.identity import PARTY_PATTERN

MAX_PLAN_BYTES = 64 * 1024
PartyName = Annotated[str, Field(pattern=PARTY_PATTERN)]
EngineName = Literal["factorised", "opacus"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Task(_Section):
    """What is predicted. All dates are calendar days (UTC); a horizon is in days.

    churn: no purchase in `horizon_days` after the cut-off. propensity: at least one purchase (in
    `category`, if given) within `horizon_days`. Eligible: bought in the `eligible_days` before.
    label: a feature table's own 0/1 column, described by the plan's feature contract.
    """

    kind: Literal["churn", "propensity", "label"]
    horizon_days: Annotated[int, Field(ge=1, le=3650)] = 30
    eligible_days: Annotated[int, Field(ge=1, le=3650)] = 180
    category: str | None = None
    label: Name | None = None
    cutoff: date | None = None
    cutoff_by_party: dict[PartyName, date] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "label":
            if self.label is None:
                raise ValueError("task.label names the label column when task.kind is 'label'")
        elif self.label is not None:
            raise ValueError("task.label is for task.kind 'label' only")
        elif self.cutoff is None and not self.cutoff_by_party:
            raise ValueError("task.cutoff (or task.cutoff_by_party) is needed")
        if self.category is not None and self.kind != "propensity":
            raise ValueError("task.category is for task.kind 'propensity' only")
        return self

    def cutoff_of(self, party: str) -> date:
        """Last day whose records may enter a feature at `party` is the day before this one."""
        chosen = self.cutoff_by_party.get(party, self.cutoff)
        if chosen is None:
            raise PlanError(
                f"the plan has no cut-off for party {party}: add it to task.cutoff_by_party"
            )
        return chosen


class Features(_Section):
    """Which columns a model sees: groups of the event catalogue, or the plan's own contract."""

    catalogue: Literal["events-1"] | None = "events-1"
    groups: tuple[str, ...] = ()
    columns: tuple[FeatureColumn, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.columns:
            if self.groups or ("catalogue" in self.model_fields_set and self.catalogue):
                raise ValueError("features: give either catalogue and groups, or columns")
            names = [column.name for column in self.columns]
            if len(set(names)) != len(names):
                raise ValueError("features.columns: every name once")
        elif self.catalogue is None:
            raise ValueError("features: catalogue or columns is needed")
        else:
            catalogue_columns(self.groups)  # a PlanError for a group that is not there
        return self


class Model(_Section):
    """The model family. `hidden` (at most 4 numbers of units) is for 'mlp' and 'residual'.

    mlp: a layer for each number. residual: the width, then a residual block for each number.
    """

    family: Literal["logistic", "mlp", "residual"] = "logistic"
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(max_length=4)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        least = {"logistic": 0, "mlp": 1, "residual": 2}[self.family]
        if len(self.hidden) < least:
            raise ValueError(f"model.hidden: '{self.family}' needs at least {least} number(s)")
        if self.family == "logistic" and self.hidden:
            raise ValueError("model.hidden is not allowed for 'logistic'")
        return self


class Training(_Section):
    """Rounds of local DP-SGD. `sample_rate` is the wanted q; a party uses B = round(q * N^) / N^.

    Without `learning_rate`, each party ties it to its noise (`models.training.noise_tied_rate`).
    `tail`: a party's result of a round is the average over this last share of its steps; 0: the
    last step's. The defaults were chosen on simulated and declared-public data, where a search
    costs nobody's budget.
    """

    rounds: Annotated[int, Field(ge=1, le=200)] = 6
    local_steps: Annotated[int, Field(ge=1, le=1000)] = 40
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.4
    learning_rate: Annotated[float, Field(gt=0, le=100)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tail: Annotated[float, Field(ge=0, le=1)] = 0.5
    clipping_norm: Annotated[float, Field(gt=0, le=100)] = 1.5
    l2: Annotated[float, Field(ge=0, le=1)] = 0.0
    engine: EngineName = "factorised"


class Privacy(_Section):
    """The epsilon asked of each party for this run; delta is 1 / (10 * N^) unless smaller here.

    `weights_epsilon` is asked only if `aggregation.weights` is 'noised_size'.
    """

    epsilon: Annotated[float, Field(gt=0, le=8)]
    evaluation_epsilon: Annotated[float, Field(gt=0, le=8)] = 1.0
    weights_epsilon: Annotated[float, Field(gt=0, le=8)] = 0.1
    delta: Annotated[float, Field(gt=0, lt=0.01)] | None = None


class Aggregation(_Section):
    """Each coordinate of a model delta is clamped to [-update_bound, update_bound].

    `weights`: 'public_size' weighs a party by its declared public size, 'equal' by 1/n; both are
    public constants. 'noised_size' weighs it by its noised number of training rows over the
    cohort's sum of these, which is charged. `single_opening`: every upload also carries a mask of
    its own, revealed for at most one attempt of a round.
    """

    update_bound: Annotated[float, Field(gt=0, le=100)] = 4.0
    weights: Literal["public_size", "equal", "noised_size"] = "public_size"
    single_opening: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.single_opening and self.weights == "noised_size":
            raise ValueError(
                "aggregation.single_opening: not with weights = 'noised_size', whose sum is opened "
                "again after each change of the cohort; use 'public_size' or 'equal'"
            )
        return self


class Evaluation(_Section):
    """Once, after the last round: a noised vector of label x score bin over held-out customers."""

    held_out: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    bins: Annotated[int, Field(ge=20, le=200)] = 20
    logit_bound: Annotated[float, Field(gt=0, le=50)] = 4.0


class Cohort(_Section):
    """Who takes part. With two parties the sum gives away the other's update; only DP protects.

    `pause_minutes`: how long a run that has fewer parties left than `minimum` waits for them.
    """

    parties: tuple[PartyName, ...] = ()
    minimum: Annotated[int, Field(ge=2, le=MAX_PARTIES)] = 3
    accept_two_party: bool = False
    timeout_seconds: Annotated[int, Field(ge=5, le=3600)] = 180
    pause_minutes: Annotated[int, Field(ge=0, le=1440)] = 60

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum == 2 and not self.accept_two_party:
            raise ValueError(
                "cohort.minimum = 2 needs cohort.accept_two_party = true: with two parties the "
                "sum gives away the other's update and only differential privacy protects it"
            )
        if len(set(self.parties)) != len(self.parties) or len(self.parties) > MAX_PARTIES:
            raise ValueError(f"cohort.parties: every party once, at most {MAX_PARTIES}")
        if self.parties and len(self.parties) < self.minimum:
            raise ValueError("cohort.parties names fewer parties than cohort.minimum")
        return self


class Publication(_Section):
    """Which tags are written, and about which day. Scores use records before `as_of`.

    `thresholds` are the score limits (public constants) between low/medium/high.
    """

    tags: tuple[Name, ...] = ()
    as_of: date | None = None
    as_of_by_party: dict[PartyName, date] = Field(default_factory=dict)
    thresholds: tuple[float, float] = (1 / 3, 2 / 3)
    valid_days: Annotated[int, Field(ge=1, le=3650)] = 90

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.thresholds
        if not 0 < low < high < 1:
            raise ValueError("publication.thresholds: two numbers with 0 < low < high < 1")
        return self


class Plan(_Section):
    """A validated plan. Build it with `parse_plan`; `digest` is the SHA-256 of the TOML bytes."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    purpose: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    description: str = ""
    task: Task
    features: Features = Features()
    model: Model = Model()
    training: Training = Training()
    privacy: Privacy
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation = Evaluation()
    cohort: Cohort = Cohort()
    publication: Publication = Publication()

    def as_of(self, party: str) -> date | None:
        """The day the published scores speak about; by default the end of the label horizon.

        None for a feature table without a date of its own: it is taken as it is when it is read.
        """
        chosen = self.publication.as_of_by_party.get(party, self.publication.as_of)
        if chosen is not None:
            return chosen
        if self.task.kind == "label":
            return self.task.cutoff_by_party.get(party, self.task.cutoff)
        return self.task.cutoff_of(party) + timedelta(days=self.task.horizon_days)


def plan_digest(source: bytes) -> str:
    """The plan's identity: SHA-256 (hex) of its TOML bytes as submitted."""
    return hashlib.sha256(source).hexdigest()


def parse_plan(source: bytes) -> Plan:
    """Validate TOML bytes. Raises PlanError naming each field, the kind of value and the bound."""
    if len(source) > MAX_PLAN_BYTES:
        raise PlanError(f"a plan is at most {MAX_PLAN_BYTES} bytes")
    try:
        raw = tomllib.loads(source.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PlanError(f"the plan is not valid TOML: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, too deep nesting
        raise PlanError(
            "the plan is not valid TOML: a number is too long or it nests too deep"
        ) from (error)
    try:
        return Plan.model_validate(raw)
    except ValidationError as error:
        raise PlanError(describe_validation_error("plan", error)) from error


def describe_validation_error(what: str, error: ValidationError) -> str:
    """One line per wrong field: its path and the rule, never the value that was given."""
    lines = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        path = "".join(map(_shown, ".".join(str(part) for part in item["loc"]))) or what
        if item["type"] == "extra_forbidden":
            lines.append(f"  {path}: unknown key; remove it or correct its spelling")
        else:
            lines.append(f"  {path}: {item['msg'].removeprefix('Value error, ')}")
    return f"the {what} is not valid:\n" + "\n".join(lines)


def _shown(character: str) -> str:
    # A key is whatever somebody wrote, and a terminal obeys some characters.
    return character if character.isprintable() else "\ufffd"


def read_plan(path: Path) -> tuple[Plan, bytes]:
    """Read and validate a plan file; returns the plan and its exact bytes."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"plan file {path} cannot be read ({error.strerror}); check the path"
        ) from error
    return parse_plan(source), source
