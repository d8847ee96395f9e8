"""A party's own policy: what may be computed on its customers, for whom, at what privacy cost.

Everything is a list of what is allowed; what a list does not name is refused, and an empty list
allows nothing. A plan is judged by its own public text and the proposed cohort before any data
is opened. Thresholds on private data (`minimum_customers`, `[quality]`) refuse with one constant
code, DATA. What `models.forbidden` names is refused whatever a list says.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.catalogue import GROUPS
from models.forbidden import forbidden
from models.plan import Plan, describe_validation_error
from models.tags import JOINT_TAGS
from party_client.policy_template import TEMPLATE, written
from party_client.quality_policy import QualityPolicy
from privacy.accounting import run_delta
from privacy.budget import Limit
from privacy.ciphertexts import MAX_PARTIES
from privacy.disclosure import SECTIONS
from privacy.errors import ConfigError, PolicyRefusal

# Public reason codes. A requester sees the code alone; the message stays in the party's log.
COORDINATOR = "coordinator"  # the coordinator is not on the party's list
REQUESTER = "requester"  # the plan's requester is not on the party's list
FORBIDDEN = "forbidden"  # a feature, label or tag that is never allowed, or a source mapping to one
PURPOSE = "purpose"  # the plan's purpose is not allowed
TASK = "task"  # the kind of task is not allowed
FEATURES = "features"  # a feature group, or a column of a feature table, is not allowed
FAMILY = "family"  # the model family is not allowed
EPSILON = "epsilon"  # the plan asks for less privacy than the policy demands
COHORT = "cohort"  # the cohort is too small, or does not name this party
TWO_PARTY = "two-party"  # two parties, where the sum gives away the other's update
TAGS = "tags"  # the plan publishes a tag that is not allowed
APPROVAL = "approval"  # a person at this party has to approve the plan first
DATA = "data"  # the one code for everything that depends on private data
REASONS = (
    COORDINATOR,
    REQUESTER,
    FORBIDDEN,
    PURPOSE,
    TASK,
    FEATURES,
    FAMILY,
    EPSILON,
    COHORT,
    TWO_PARTY,
    TAGS,
    APPROVAL,
    DATA,
)
FINGERPRINT = r"^[0-9a-f]{4}(-[0-9a-f]{4}){4}$"


Fingerprint = Annotated[str, Field(pattern=FINGERPRINT)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SubLimit(_Section):
    """At most `epsilon`, at the budget's delta, over runs of `purpose` and `plan` in one window.

    None means any. A window is a calendar one (UTC). That it starts anew is policy.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 _-]{0,62}$")]
    epsilon: Annotated[float, Field(gt=0)]
    purpose: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] | None = None
    plan: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")] | None = None
    window: Literal["lifetime", "year", "quarter", "month"] = "lifetime"


class Budget(_Section):
    """The lifetime cap: `epsilon` at `delta` for one customer at this party, over all runs."""

    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=0.01)]
    limit: tuple[SubLimit, ...] = ()

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if len({one.name for one in self.limit}) != len(self.limit):
            raise ValueError("limit: every name once, so that a refusal can say which it was")
        return self

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The sub-limits as the ledger takes them."""
        return tuple(Limit(**one.model_dump()) for one in self.limit)


class DisclosurePolicy(_Section):
    """What this party tells its coordinator about itself (`privacy.disclosure`), a section each.

    What a policy does not name is not told; one without this section tells nothing at all.
    """

    status: bool = False
    budget: bool = False
    limits: bool = False
    approvals: bool = False
    tags: bool = False
    models: bool = False
    egress: bool = False

    @property
    def told(self) -> tuple[str, ...]:
        """The names of the sections that are told."""
        return tuple(name for name in SECTIONS if getattr(self, name))


class Policy(_Section):
    """What policy.toml holds. Build it with `load_policy`.

    `coordinators`: None, as in a file of before this key, allows the one pinned by join, and it
    alone can speak to this party anyway.
    """

    format: Literal[1]
    coordinators: frozenset[Fingerprint] | None = None
    requesters: frozenset[str]
    purposes: frozenset[str]
    tasks: frozenset[Literal["churn", "propensity", "label"]]
    feature_groups: frozenset[str]
    feature_columns: frozenset[str] = frozenset()
    model_families: frozenset[Literal["logistic", "mlp", "residual"]]
    tags: frozenset[str]
    max_epsilon_per_run: Annotated[float, Field(gt=0)]
    minimum_cohort: Annotated[int, Field(ge=2, le=MAX_PARTIES)]
    accept_two_party: bool = False
    minimum_customers: Annotated[int, Field(ge=0)] = 0
    max_refunds_per_day: Annotated[int, Field(ge=1, le=1000)] = 20
    approval: Literal["automatic", "person"]
    approval_days: Annotated[int, Field(ge=1, le=366)] = 30
    approval_runs: Annotated[int, Field(ge=1, le=1000)] = 1
    quality: QualityPolicy = QualityPolicy()
    disclosure: DisclosurePolicy = DisclosurePolicy()
    budget: Budget


def default_policy_text(
    requester_fingerprints: Sequence[str],
    public_size: int,
    coordinator_fingerprints: Sequence[str] = (),
) -> str:
    """The commented policy.toml that init writes. `public_size` is N^ (public)."""
    return TEMPLATE.format(
        coordinators=written(coordinator_fingerprints),
        requesters=written(requester_fingerprints),
        groups=written(GROUPS),
        tags=written(JOINT_TAGS),
        delta=repr(1 / (10 * public_size)),
    )


def load_policy(path: Path) -> Policy:
    """Read a policy. Raises ConfigError naming each wrong or unknown key and its rule."""
    try:
        return parse_policy(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"policy file {path} cannot be read ({error.strerror}); restore it, or copy the one "
            "that `fedtags-party init` writes"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"policy file {path} is not UTF-8 text") from error


def parse_policy(text: str) -> Policy:
    """Validate a policy's TOML. Raises ConfigError naming each wrong or unknown key."""
    try:
        policy = Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"policy.toml is not valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(describe_validation_error("policy.toml", error)) from error
    for key, named, known in (
        ("feature_groups", policy.feature_groups, GROUPS),
        ("tags", policy.tags, tuple(JOINT_TAGS)),
    ):
        if not named <= set(known):
            raise ConfigError(f"policy.toml: {key}: unknown name; known are {', '.join(known)}")
    for limit in policy.budget.limit:
        if limit.purpose is not None and limit.purpose not in policy.purposes:
            raise ConfigError(
                f"policy.toml: budget.limit '{limit.name}': its purpose is not one of `purposes`, "
                "so it would limit nothing"
            )
    return policy


def check(
    policy: Policy,
    plan: Plan,
    *,
    coordinator_fingerprint: str,
    requester_fingerprint: str,
    cohort: Collection[str],
    party: str,
    public_size: int,
) -> None:
    """Raise PolicyRefusal with a public reason code unless the policy allows all that is asked.

    `coordinator_fingerprint` belongs to the pinned key that signs the coordinator's messages,
    `requester_fingerprint` to the one whose signature of the plan was verified; `cohort` are
    the parties, `party` included, whose keys are confirmed here; `public_size` is this party's N^.
    Reads no data.
    """
    if policy.coordinators is not None and coordinator_fingerprint not in policy.coordinators:
        raise PolicyRefusal(COORDINATOR, "policy.toml: coordinators does not list this coordinator")
    if requester_fingerprint not in policy.requesters:
        raise PolicyRefusal(REQUESTER, "policy.toml: requesters does not list the plan's requester")
    for refusal in _refusals(policy, plan, public_size):
        raise refusal
    check_cohort(policy, plan, cohort, party)


def plan_refusals(
    policy: Policy, plan: Plan, *, party: str, public_size: int
) -> tuple[PolicyRefusal, ...]:
    """Every reason for which the policy refuses the plan, whoever asks. Empty: none is known yet.

    The cohort is judged at its best: everybody whom the plan names takes part. Where it names
    nobody, nothing is said about the cohort. Reads no data.
    """
    found = list(_refusals(policy, plan, public_size))
    if plan.cohort.parties:
        try:
            check_cohort(policy, plan, plan.cohort.parties, party)
        except PolicyRefusal as refusal:
            found.append(refusal)
    return tuple(found)


def _refusals(policy: Policy, plan: Plan, public_size: int) -> Iterator[PolicyRefusal]:
    """What the plan's own text and this party's public size are enough to refuse."""
    yield from forbidden_refusals(plan)
    if plan.purpose not in policy.purposes:
        yield PolicyRefusal(PURPOSE, f"policy.toml: purposes does not allow {plan.purpose}")
    if plan.task.kind not in policy.tasks:
        yield PolicyRefusal(TASK, f"policy.toml: tasks does not allow {plan.task.kind}")
    yield from _feature_refusals(policy, plan)
    if plan.model.family not in policy.model_families:
        yield PolicyRefusal(
            FAMILY, f"policy.toml: model_families does not allow {plan.model.family}"
        )
    yield from _privacy_refusals(policy, plan, public_size)
    if not set(plan.publication.tags) <= policy.tags:
        yield PolicyRefusal(TAGS, "policy.toml: tags does not allow all tags of the plan")


def forbidden_refusals(plan: Plan, mapping: Mapping[str, str] | None = None) -> list[PolicyRefusal]:
    """What no policy can allow: forbidden attributes among the plan's feature columns and their
    categories, its label (a column, or the category that is bought) and its tags, or in the
    party's own `mapping` of column names. Reads no data."""
    named: list[tuple[str, str]] = []
    for column in plan.features.columns:
        where = f"features.columns: {column.name}"
        named += [(where, one) for one in (column.name, *column.categories)]
    named += [(f"publication.tags: {one}", one) for one in plan.publication.tags]
    for key, name in (("task.label", plan.task.label), ("task.category", plan.task.category)):
        named += [] if name is None else [(f"{key}: {name}", name)]
    for canonical, own in (mapping or {}).items():
        where = f"party.toml: source.columns.{canonical}"
        named += [(where, canonical), (where, own)]
    return [
        PolicyRefusal(FORBIDDEN, f"{where} is a forbidden attribute ({category})")
        for where, name in named
        if (category := forbidden(name)) is not None
    ]


def _feature_refusals(policy: Policy, plan: Plan) -> Iterator[PolicyRefusal]:
    if plan.features.columns:
        named = {column.name for column in plan.features.columns}
        allowed, key = policy.feature_columns, "feature_columns"
    else:
        named, allowed = set(plan.features.groups or GROUPS), policy.feature_groups
        key = "feature_groups"
    if not named <= allowed:
        yield PolicyRefusal(FEATURES, f"policy.toml: {key} does not allow all that the plan uses")
    if plan.task.label is not None and plan.task.label not in policy.feature_columns:
        yield PolicyRefusal(
            FEATURES, "policy.toml: feature_columns does not allow the plan's label"
        )


def _privacy_refusals(policy: Policy, plan: Plan, public_size: int) -> Iterator[PolicyRefusal]:
    # The sum of all is at least what they compose to: on the side of privacy.
    asked = plan.privacy.epsilon + plan.privacy.evaluation_epsilon
    if plan.aggregation.weights == "noised_size":
        asked += plan.privacy.weights_epsilon
    if asked > policy.max_epsilon_per_run:
        yield PolicyRefusal(
            EPSILON,
            "policy.toml: max_epsilon_per_run is below what the plan asks for training, evaluation "
            f"and noised weights together; it is {policy.max_epsilon_per_run:g}",
        )
    excess = delta_refusal(plan, public_size)
    if excess is not None:
        yield excess
    elif run_delta(public_size, plan.privacy.delta) > policy.budget.delta:
        yield PolicyRefusal(
            EPSILON,
            "policy.toml: budget.delta is below the delta of the run, so its epsilon would be "
            f"more there; the plan needs privacy.delta = {policy.budget.delta!r} or less",
        )


def delta_refusal(plan: Plan, public_size: int) -> PolicyRefusal | None:
    """A delta above 1 / (10 * N^) promises nothing at this party: refused, not lowered silently."""
    limit = run_delta(public_size)
    if plan.privacy.delta is None or plan.privacy.delta <= limit:
        return None
    return PolicyRefusal(
        EPSILON,
        "the plan's privacy.delta is above 1 / (10 * public_size), which is "
        f"{limit!r} at this party; leave it out of the plan, or ask for that or less",
    )


def check_cohort(policy: Policy, plan: Plan, cohort: Collection[str], party: str) -> None:
    """Raise PolicyRefusal unless plan and policy allow this cohort, `party` included.

    Asked for the cohort proposed at preflight and again for the final one.
    """
    if party not in cohort:
        raise PolicyRefusal(COHORT, "the cohort does not hold this party")
    if plan.cohort.parties and not set(cohort) <= set(plan.cohort.parties):
        raise PolicyRefusal(COHORT, "the cohort holds a party that the plan does not name")
    if len(cohort) > MAX_PARTIES:
        raise PolicyRefusal(COHORT, f"the cohort is larger than {MAX_PARTIES} parties")
    if len(cohort) < plan.cohort.minimum:
        raise PolicyRefusal(COHORT, "the cohort is smaller than the plan's cohort.minimum")
    if len(cohort) < policy.minimum_cohort:
        raise PolicyRefusal(COHORT, "policy.toml: minimum_cohort is above the cohort's size")
    if len(cohort) <= 2 and not (policy.accept_two_party and plan.cohort.accept_two_party):
        raise PolicyRefusal(
            TWO_PARTY, "policy.toml and the plan must both set accept_two_party for two parties"
        )
