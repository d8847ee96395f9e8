"""A party's policy: what it does not name is refused, each with its public reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.catalogue import EVENTS_1
from models.plan import Plan, parse_plan
from party_client import policy as rules
from party_client.policy import Policy, check, default_policy_text, load_policy, parse_policy
from party_client.setup import admit_coordinator, initialise
from privacy.budget import Limit
from privacy.errors import ConfigError, PolicyRefusal

REQUESTER = "ab12-cd34-ef56-7890-abcd"
COORDINATOR = "0123-4567-89ab-cdef-0123"
DEFAULT = default_policy_text([REQUESTER], 6000, [COORDINATOR])
LIMIT = '# [[budget.limit]]\n# name = "all'  # where the changes below put a sub-limit of their own
ONE = 'name = "a"\nepsilon = 1.0\n'
PLAN = """
format = 1
name = "churn-180"
purpose = "retention"
[task]
kind = "churn"
cutoff = 2024-01-01
[features]
groups = ["hours"]
[privacy]
epsilon = 1.0
evaluation_epsilon = 0.5
[cohort]
parties = ["bank", "retailer", "shop"]
[publication]
tags = ["churn_risk"]
"""


def changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def plan(*changes: tuple[str, str]) -> Plan:
    return parse_plan(changed(PLAN, *changes).encode())


def policy(*changes: tuple[str, str]) -> Policy:
    return parse_policy(changed(DEFAULT, *changes))


def judge(
    given: Policy,
    asked: Plan,
    requester: str = REQUESTER,
    cohort: int = 3,
    party: str = "bank",
    coordinator: str = COORDINATOR,
) -> None:
    others = [name for name in ("bank", "retailer", "shop", "telco") if name != party]
    check(
        given,
        asked,
        coordinator_fingerprint=coordinator,
        requester_fingerprint=requester,
        cohort=[party, *others[: cohort - 1]],
        party=party,
        public_size=6000,
    )


def refused(
    given: Policy,
    asked: Plan,
    requester: str = REQUESTER,
    cohort: int = 3,
    party: str = "bank",
    coordinator: str = COORDINATOR,
) -> str:
    with pytest.raises(PolicyRefusal) as caught:
        judge(given, asked, requester, cohort, party, coordinator)
    assert caught.value.reason in rules.REASONS
    return caught.value.reason


def refusals(given: Policy, asked: Plan) -> tuple[PolicyRefusal, ...]:
    return rules.plan_refusals(given, asked, party="bank", public_size=6000)


def test_the_default_policy_accepts_an_ordinary_plan_of_a_listed_requester() -> None:
    judge(policy(), plan())
    judge(policy(), plan(('groups = ["hours"]', "groups = []")))


def test_the_default_budget_has_a_delta_that_fits_the_public_size() -> None:
    assert policy().budget.delta == pytest.approx(1 / 60000)
    assert policy().budget.epsilon > policy().max_epsilon_per_run


def test_a_policy_without_requesters_refuses_everyone() -> None:
    nobody = parse_policy(default_policy_text([], 6000, [COORDINATOR]))
    assert refused(nobody, plan()) == rules.REQUESTER


def test_a_policy_without_coordinators_refuses_every_one() -> None:
    nobody = parse_policy(default_policy_text([REQUESTER], 6000))
    assert refused(nobody, plan()) == rules.COORDINATOR


def test_an_unlisted_coordinator_is_refused() -> None:
    assert refused(policy(), plan(), coordinator=REQUESTER) == rules.COORDINATOR


def test_join_names_the_coordinator_in_an_empty_list_and_leaves_a_filled_one_alone(
    tmp_path: Path,
) -> None:
    settings = initialise(tmp_path / "bank", "bank", 6000)
    assert admit_coordinator(settings, COORDINATOR)
    assert load_policy(settings.policy).coordinators == {COORDINATOR}
    assert load_policy(settings.policy).requesters == frozenset()
    before = settings.policy.read_bytes()
    assert admit_coordinator(settings, COORDINATOR)
    assert not admit_coordinator(settings, "ffff-ffff-ffff-ffff-ffff")
    assert settings.policy.read_bytes() == before
    earlier = settings.policy.read_text().replace(f'coordinators = ["{COORDINATOR}"]\n', "")
    settings.policy.write_text(earlier)
    assert admit_coordinator(settings, COORDINATOR)
    assert settings.policy.read_text() == earlier


def test_an_earlier_versions_policy_allows_the_pinned_coordinator_and_asks_no_person() -> None:
    start, end = DEFAULT.index("[quality]"), DEFAULT.index("[budget]")
    text = DEFAULT[:start] + DEFAULT[end:]
    earlier = changed(
        text,
        (f'coordinators = ["{COORDINATOR}"]\n', ""),
        ("approval_runs = 1\n", ""),
        ("approval_days = 30\n", ""),
    )
    given = parse_policy(earlier)
    judge(given, plan(), coordinator="ffff-ffff-ffff-ffff-ffff")
    assert (given.approval, given.approval_runs, given.approval_days) == ("automatic", 1, 30)
    assert not given.quality.demands


def test_an_unlisted_requester_is_refused() -> None:
    assert refused(policy(), plan(), requester="ab12-cd34-ef56-7890-abce") == rules.REQUESTER


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('purposes = ["retention", "marketing"]', "purposes = []"), rules.PURPOSE),
        (('tasks = ["churn", "propensity"]', 'tasks = ["propensity"]'), rules.TASK),
        (('"hours", ', ""), rules.FEATURES),
        (('families = ["logistic", "mlp"]', 'families = ["mlp"]'), rules.FAMILY),
        (('["churn_risk", "purchase_propensity"]', "[]"), rules.TAGS),
        (("max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.4999"), rules.EPSILON),
        (("minimum_cohort = 3", "minimum_cohort = 4"), rules.COHORT),
    ],
)
def test_what_the_policy_does_not_name_is_refused(change: tuple[str, str], reason: str) -> None:
    assert refused(policy(change), plan()) == reason


def test_the_limit_on_epsilon_itself_is_allowed() -> None:
    judge(policy(("max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.5")), plan())


def test_noised_weights_count_towards_the_limit_on_epsilon() -> None:
    weighed = ("[privacy]", '[aggregation]\nweights = "noised_size"\n[privacy]')
    judge(policy(("max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.6")), plan(weighed))
    strict = policy(("max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.59"))
    assert refused(strict, plan(weighed)) == rules.EPSILON
    judge(strict, plan())


def test_a_plan_with_no_groups_asks_for_all_of_them() -> None:
    everything = plan(('groups = ["hours"]', "groups = []"))
    assert refused(policy(('"hours", ', "")), everything) == rules.FEATURES


def test_a_delta_above_the_budgets_is_refused() -> None:
    strict = policy((f"delta = {1 / 60_000}", "delta = 1e-6"))
    assert refused(strict, plan()) == rules.EPSILON
    judge(strict, plan(("epsilon = 1.0", "epsilon = 1.0\ndelta = 1e-6")))


def test_a_delta_above_one_in_ten_public_sizes_is_refused_and_not_lowered_in_silence() -> None:
    highest = 1 / 60_000
    judge(policy(), plan(("epsilon = 1.0", f"epsilon = 1.0\ndelta = {highest!r}")))
    above = plan(("epsilon = 1.0", f"epsilon = 1.0\ndelta = {highest * (1 + 1e-15)!r}"))
    with pytest.raises(PolicyRefusal, match=r"1 / \(10 \* public_size\)") as caught:
        judge(policy(), above)
    assert caught.value.reason == rules.EPSILON
    # The bound that the refusal names is one that is then accepted.
    named = re.search(r"which is (\S+) at this party", str(caught.value))
    assert named is not None
    judge(policy(), plan(("epsilon = 1.0", f"epsilon = 1.0\ndelta = {named[1]}")))


def test_everything_that_the_plans_own_text_rules_out_is_named_at_once() -> None:
    strict = policy(
        ('purposes = ["retention", "marketing"]', "purposes = []"),
        ('tasks = ["churn", "propensity"]', "tasks = []"),
        ('families = ["logistic", "mlp"]', "families = []"),
        ("max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.0"),
        ('["churn_risk", "purchase_propensity"]', "[]"),
        ('"hours", ', ""),
    )
    reasons = [one.reason for one in refusals(strict, plan())]
    wanted = [rules.PURPOSE, rules.TASK, rules.FEATURES, rules.FAMILY, rules.EPSILON, rules.TAGS]
    assert reasons == wanted
    assert refused(strict, plan()) == rules.PURPOSE
    assert refusals(policy(), plan()) == ()


def test_a_plans_cohort_is_judged_at_its_best() -> None:
    named = ('parties = ["bank", "retailer", "shop"]', 'parties = ["shop", "retailer", "telco"]')
    assert [one.reason for one in refusals(policy(), plan(named))] == [rules.COHORT]
    large = policy(("minimum_cohort = 3", "minimum_cohort = 4"))
    assert [one.reason for one in refusals(large, plan())] == [rules.COHORT]
    anybody = plan(('parties = ["bank", "retailer", "shop"]', ""))
    assert refusals(large, anybody) == ()


def test_a_plan_that_does_not_name_this_party_is_refused() -> None:
    assert refused(policy(), plan(), party="stranger") == rules.COHORT
    judge(policy(), plan(('parties = ["bank", "retailer", "shop"]', "")), party="stranger")


def test_two_parties_need_the_consent_of_both_policy_and_plan() -> None:
    two = plan(
        (
            'parties = ["bank", "retailer", "shop"]',
            "minimum = 2\naccept_two_party = true",
        )
    )
    small = ("minimum_cohort = 3", "minimum_cohort = 2")
    accepting = policy(small, ("accept_two_party = false", "accept_two_party = true"))
    judge(accepting, two, cohort=2)
    assert refused(policy(small), two, cohort=2) == rules.TWO_PARTY
    assert refused(accepting, plan(), cohort=2) == rules.COHORT
    assert refused(policy(), two, cohort=2) == rules.COHORT


def test_sub_limits_are_read_and_the_default_policys_example_is_one_once_uncommented() -> None:
    assert policy().budget.limits == ()
    start = DEFAULT.index(LIMIT)
    example = re.sub(r"^# ", "", DEFAULT[start:], flags=re.MULTILINE)
    assert parse_policy(DEFAULT[:start] + example.replace("#\n", "\n")).budget.limits == (
        Limit("all per year", 4.0, window="year"),
        Limit("marketing per quarter", 3.0, purpose="marketing", window="quarter"),
        Limit("retention ever", 6.0, purpose="retention"),
    )
    other = ONE.replace('"a"', '"b"')
    two = policy((LIMIT, f"[[budget.limit]]\n{ONE}[[budget.limit]]\n{other}{LIMIT}"))
    assert [one.name for one in two.budget.limits] == ["a", "b"]
    assert two.budget.limits[0] == Limit("a", 1.0, None, None, "lifetime")


TABLE = (
    ('kind = "churn"\ncutoff = 2024-01-01', 'kind = "label"\nlabel = "left"'),
    ('groups = ["hours"]', 'columns = [{name = "age", low = 0.0, high = 100.0}]'),
    ('tags = ["churn_risk"]', ""),
)
TABLE_TASK = ('tasks = ["churn", "propensity"]', 'tasks = ["label"]')


@pytest.mark.parametrize(
    ("columns", "accepted"),
    [('["age", "left"]', True), ('["left"]', False), ('["age"]', False), ("[]", False)],
)
def test_a_feature_table_is_opened_column_by_column(columns: str, accepted: bool) -> None:
    given = policy(TABLE_TASK, ("feature_columns = []", f"feature_columns = {columns}"))
    if accepted:
        judge(given, plan(*TABLE))
    else:
        assert refused(given, plan(*TABLE)) == rules.FEATURES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("format = 1", "format = 2"), "format"),
        (("format = 1", "format = 1\nminimum_quality = 3"), "minimum_quality: unknown key"),
        (("epsilon = 8.0", "epsilon = 8.0\nyearly = 1.0"), r"budget\.yearly: unknown key"),
        (("epsilon = 8.0", "epsilon = inf"), r"budget\.epsilon"),
        (("max_epsilon_per_run = 2.0", ""), "max_epsilon_per_run"),
        (("minimum_cohort = 3", "minimum_cohort = 1"), "minimum_cohort"),
        (('approval = "automatic"', 'approval = "nobody"'), "approval"),
        (("approval_runs = 1", "approval_runs = 0"), "approval_runs"),
        (("approval_days = 30", "approval_days = 367"), "approval_days"),
        ((COORDINATOR, "0123"), r"coordinators\.0"),
        (("require = []", 'require = ["beauty"]'), r"quality\.require"),
        (("minimum_usable_share = 0.0", "minimum_usable_share = 2"), "minimum_usable_share"),
        ((LIMIT, 'name = "a"\nepsilon = 0.0'), r"budget\.limit\.0\.epsilon"),
        ((LIMIT, 'name = "a"'), r"budget\.limit\.0\.epsilon: Field required"),
        ((LIMIT, "epsilon = 1.0"), r"budget\.limit\.0\.name"),
        ((LIMIT, 'name = "a"\nepsilon = 1.0\nwindow = "week"'), r"budget\.limit\.0\.window"),
        ((LIMIT, 'name = "a"\nepsilon = 1.0\nmodel = "p"'), r"limit\.0\.model: unknown key"),
        ((LIMIT, 'name = "a"\nepsilon = 1.0\npurpose = "resale"'), "would limit nothing"),
        ((LIMIT, ONE + "[[budget.limit]]\n" + ONE), "every name once"),
        (('"hours"', '"hour"'), "feature_groups: unknown name"),
        (('"churn_risk"', '"religion"'), "tags: unknown name"),
        (("format = 1", "format = "), "not valid TOML"),
    ],
)
def test_a_wrong_policy_names_its_key(change: tuple[str, str], words: str) -> None:
    old, new = change
    if old == LIMIT:
        new = f"[[budget.limit]]\n{new}\n{LIMIT}"
    with pytest.raises(ConfigError, match=words):
        policy((old, new))


def test_a_policy_file_is_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(ConfigError, match=r"policy\.toml cannot be read"):
        load_policy(path)
    path.write_text(DEFAULT)
    assert load_policy(path).requesters == {REQUESTER}
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_policy(path)


def test_reason_codes_are_public_and_stable() -> None:
    assert rules.REASONS == (
        "coordinator",
        "requester",
        "forbidden",
        "purpose",
        "task",
        "features",
        "family",
        "epsilon",
        "cohort",
        "two-party",
        "tags",
        "approval",
        "data",
    )


@pytest.mark.parametrize(
    "change",
    [
        ('kind = "churn"', 'kind = "propensity"\ncategory = "宗教"'),
        (TABLE[1][0], 'columns = [{name = "religion"}]'),
        (TABLE[1][0], 'columns = [{name = "x", kind = "category", categories = ["民族"]}]'),
        ('tags = ["churn_risk"]', 'tags = ["ethnic_group"]'),
    ],
)
def test_a_forbidden_attribute_is_refused_whatever_the_policy_lists(
    change: tuple[str, str],
) -> None:
    everything = policy(("feature_columns = []", 'feature_columns = ["religion", "x"]'))
    assert refused(everything, plan(change)) == rules.FORBIDDEN


def test_a_forbidden_label_is_refused_whatever_the_policy_lists() -> None:
    given = policy(TABLE_TASK, ("feature_columns = []", 'feature_columns = ["age", "pregnancy"]'))
    labelled = plan((TABLE[0][0], TABLE[0][1].replace("left", "pregnancy")), *TABLE[1:])
    assert refused(given, labelled) == rules.FORBIDDEN


@pytest.mark.parametrize(
    "mapping", [{"category": "health_status"}, {"age": "健康状况"}, {"union_membership": "x7"}]
)
def test_a_mapping_of_the_party_to_a_forbidden_attribute_is_refused(
    mapping: dict[str, str],
) -> None:
    found = rules.forbidden_refusals(plan(), mapping)
    assert {one.reason for one in found} == {rules.FORBIDDEN}
    assert "party.toml: source.columns" in str(found[0])


def test_the_names_of_the_product_itself_are_not_forbidden() -> None:
    names = ["customer", "time", "amount", "quantity", "type", "category", "channel"]
    names += [one.name for one in EVENTS_1]
    assert not rules.forbidden_refusals(plan(), {one: one for one in names})
