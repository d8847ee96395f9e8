"""`fedtags-party budget show|plan`: what is spent, and what a plan would cost before it runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from models.plan import parse_plan
from models.training import Terms, party_terms
from party_client.cli import app
from party_client.policy import load_policy
from party_client.settings import load_settings
from party_client.setup import initialise
from privacy.accounting import epsilon
from privacy.errors import (
    BudgetExceeded,
    ConfigError,
    FedtagsError,
    LedgerError,
    PlanError,
    PolicyRefusal,
)
from privacy.ledger import Ledger, Provenance
from tests.ledgers import commit

HOW = Provenance("logistic", "factorised", "0f" * 32, "Poisson", "AES", "1.2.3", ("shop",))
PLAN = """
format = 1
name = "churn-180"
purpose = "retention"
[task]
kind = "churn"
cutoff = 2024-01-01
[training]
rounds = 3
local_steps = 5
[privacy]
epsilon = 1.0
evaluation_epsilon = 0.5
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    initialise(tmp_path / "bank", "bank", 6000)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "bank"


def plan_file(home: Path) -> Path:
    return home.parent / "plan.toml"


def change_plan(home: Path, old: str, new: str) -> None:
    change(plan_file(home), old, new)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def add_limit(home: Path, **values: object) -> None:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    path = load_settings(home).policy
    path.write_text(f"{path.read_text()}\n[[budget.limit]]\n{lines}")


def call(home: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--home", str(home), *arguments])


def output(home: Path, *arguments: str) -> str:
    result = call(home, *arguments)
    assert result.exit_code == 0, result.exception
    assert max(len(line) for line in result.stdout.splitlines()) <= 80 or "json" in arguments
    return result.stdout


def show(home: Path) -> Any:
    return json.loads(output(home, "budget", "show", "--format", "json"))


def forecast(home: Path) -> Any:
    return json.loads(output(home, "budget", "plan", str(plan_file(home)), "--format", "json"))


def failed(home: Path, *arguments: str) -> FedtagsError:
    result = call(home, *arguments)
    assert isinstance(result.exception, FedtagsError), result.stdout
    return result.exception


def words(text: str) -> str:
    return " ".join(text.split())


def terms(home: Path) -> Terms:
    return party_terms(parse_plan(plan_file(home).read_bytes()), 6000)


def ledger(home: Path) -> Ledger:
    return Ledger(load_settings(home).ledger)


def reserve(home: Path, name: str, ledger: Ledger) -> None:
    plan = parse_plan(plan_file(home).read_bytes())
    ledger.reserve(
        name,
        plan_digest="d" * 64,
        plan=plan.name,
        purpose=plan.purpose,
        mechanisms=terms(home).mechanisms,
        valid_for=timedelta(hours=1),
        limits=load_policy(load_settings(home).policy).budget.limits,
    )


def run(home: Path, name: str, rounds: int = 3, outcome: str = "finished") -> None:
    """What a session writes for a run, whole or ended after `rounds`."""
    book = ledger(home)
    reserve(home, name, book)
    for number in range(1, rounds + 1):
        book.intent(name, number, terms(home).round_mechanism, HOW)
        commit(book, name, number)
    if outcome == "finished":
        book.intent(name, 0, terms(home).evaluation, HOW)
        commit(book, name, 0)
        book.close(name, "finished")
    else:
        book.close(name, "failed")


def test_a_fresh_budget_is_unspent(home: Path) -> None:
    shown = show(home)
    assert (shown["budget_used"], shown["epsilon_spent"], shown["epsilon_budget"]) == (0, 0, 8)
    assert shown["delta"] == 1 / 60_000
    assert (shown["limits"], shown["open_reservations"]) == ([], [])
    text = words(output(home, "budget", "show"))
    assert "one customer at this party, added or removed, at delta 1.7e-05" in text
    assert "policy, not mathematics" not in text  # there is no sub-limit to warn of


def test_the_prediction_is_what_a_whole_run_is_charged(home: Path) -> None:
    made = forecast(home)
    asked = terms(home)
    assert made["at_run_delta"] == made["at_ledger_delta"]
    cost = made["at_ledger_delta"]
    assert cost["epsilon"] == epsilon(asked.mechanisms, 1 / 60_000)
    assert cost["epsilon_training"] == epsilon([asked.training], 1 / 60_000) <= 1.0
    assert cost["epsilon_evaluation"] == epsilon([asked.evaluation], 1 / 60_000) <= 0.5
    assert (made["steps"], made["batch_size"]) == (15, asked.rule.batch_size)
    assert made["sample_rate"] == asked.rule.batch_size / 6000
    assert made["noise_multiplier"] == asked.training.noise_multiplier
    run(home, "run-1")
    assert show(home)["epsilon_spent"] == cost["epsilon"]
    assert show(home)["budget_used"] == made["budget_share"]
    assert forecast(home)["budget_used"] == made["budget_share"]


def test_the_prediction_names_what_noised_weights_cost(home: Path) -> None:
    assert forecast(home)["at_ledger_delta"]["epsilon_weights"] == 0
    change_plan(home, "[privacy]", '[aggregation]\nweights = "noised_size"\n[privacy]')
    asked, cost = terms(home), forecast(home)["at_ledger_delta"]
    assert asked.weights is not None
    assert cost["epsilon_weights"] == epsilon([asked.weights], 1 / 60_000) <= 0.1
    assert cost["epsilon"] == epsilon(asked.mechanisms, 1 / 60_000)
    assert "weights 0.1" in words(output(home, "budget", "plan", str(plan_file(home))))


def test_a_run_that_fails_is_charged_less_than_predicted(home: Path) -> None:
    made = forecast(home)
    run(home, "run-1", rounds=1, outcome="failed")
    shown = show(home)
    assert 0 < shown["epsilon_spent"] < made["at_ledger_delta"]["epsilon"]
    assert 0 < shown["budget_used"] < made["budget_share"]


@pytest.mark.parametrize(
    ("limit", "binding"),
    [
        ({}, "lifetime budget"),
        ({"name": "a", "epsilon": 2.6, "plan": "churn-180"}, "a"),
        ({"name": "b", "epsilon": 2.6, "purpose": "retention", "window": "month"}, "b"),
        ({"name": "c", "epsilon": 2.6, "purpose": "marketing"}, "lifetime budget"),
    ],
)
def test_as_many_runs_fit_as_were_promised_and_no_more(
    home: Path, limit: dict[str, Any], binding: str
) -> None:
    change(load_settings(home).policy, "epsilon = 8.0", "epsilon = 3.5")
    ledger(home).amend(cap_epsilon=3.5, cap_delta=1 / 60_000)
    if limit:
        add_limit(home, **limit)
    run(home, "run-0", rounds=2, outcome="failed")
    made = forecast(home)
    assert made["binding"] == binding
    left = made["runs_left"]
    assert left == made["runs_left_by_budget"][binding] >= 1
    assert made["runs_left_by_budget"]["lifetime budget"] >= left
    assert made["admitted"] is True
    for number in range(left):
        run(home, f"run-{number + 1}")
    with pytest.raises(BudgetExceeded, match=binding):
        reserve(home, "one-too-many", ledger(home))
    made = forecast(home)
    assert (made["runs_left"], made["binding"], made["admitted"]) == (0, binding, False)
    text = words(output(home, "budget", "plan", str(plan_file(home))))
    assert f"refused (budget): no room in {binding}" in text


def test_sub_limits_are_shown_with_their_window_and_that_a_reset_is_policy(home: Path) -> None:
    add_limit(home, name="retention", epsilon=4.0, purpose="retention", window="quarter")
    add_limit(home, name="other plan", epsilon=2.0, plan="propensity-30")
    add_limit(home, name="all", epsilon=5.0, window="year")
    run(home, "run-1")
    spent = ledger(home).spent()
    now = datetime.now(UTC)
    assert [(one["name"], one["spent"], one["window_now"]) for one in show(home)["limits"]] == [
        ("retention", spent, f"{now.year} Q{(now.month - 1) // 3 + 1}"),
        ("other plan", 0, "lifetime"),
        ("all", spent, f"{now.year}"),
    ]
    text = words(output(home, "budget", "show"))
    assert "A sub-limit's reset is policy, not mathematics" in text
    assert f"retention purpose retention {now.year} Q" in text
    text = words(output(home, "budget", "plan", str(plan_file(home))))
    assert "this quarter, refuses first" in text
    assert "other plan" not in text  # it does not cover this plan


def test_an_open_reservation_is_shown_until_it_expires(home: Path) -> None:
    reserve(home, "run-1", ledger(home))
    shown = show(home)
    (run,) = shown["open_reservations"]
    until = datetime.fromisoformat(run["expires"])
    assert timedelta(minutes=50) < until - datetime.now(UTC) <= timedelta(hours=1)
    assert run["epsilon"] == shown["epsilon_spent"] > 0
    assert "run-1" in output(home, "budget", "show")
    ledger(home).refund("run-1")
    assert show(home)["open_reservations"] == []
    assert "run-1" not in output(home, "budget", "show")


def test_a_budget_that_waits_for_the_next_start_is_told_and_not_taken(home: Path) -> None:
    change(load_settings(home).policy, "epsilon = 8.0", "epsilon = 9.5")
    before = load_settings(home).ledger.read_bytes()
    shown = show(home)
    assert (shown["epsilon_budget"], shown["policy_waits_for_restart"]) == (8.0, True)
    text = words(output(home, "budget", "show"))
    assert "policy.toml names epsilon 9.5 at delta 1.7e-05: that takes effect" in text
    forecast(home)
    assert load_settings(home).ledger.read_bytes() == before


def test_a_smaller_delta_is_told_beside_the_ledgers(home: Path) -> None:
    change_plan(home, "epsilon = 1.0\n", "epsilon = 1.0\ndelta = 1e-7\n")
    made = forecast(home)
    run_cost, ledger_cost = made["at_run_delta"], made["at_ledger_delta"]
    assert (run_cost["delta"], ledger_cost["delta"]) == (1e-7, 1 / 60_000)
    assert ledger_cost["epsilon"] < run_cost["epsilon"]
    text = words(output(home, "budget", "plan", str(plan_file(home))))
    assert "at delta 1.0e-07 at delta 1.7e-05" in text
    run(home, "run-1")
    assert show(home)["epsilon_spent"] == ledger_cost["epsilon"]


def test_what_policy_refuses_is_told_with_every_reason(home: Path) -> None:
    change(load_settings(home).policy, '["retention", "marketing"]', '["marketing"]')
    change(load_settings(home).policy, "max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.0")
    made = forecast(home)
    assert [one["reason"] for one in made["refusals"]] == ["purpose", "epsilon"]
    assert (made["admitted"], made["runs_left"] > 0) == (False, True)
    text = words(output(home, "budget", "plan", str(plan_file(home))))
    assert "refused (purpose): policy.toml: purposes does not allow retention" in text
    assert "policy.toml allows it" not in text


def test_a_plan_that_policy_allows_is_said_to_be(home: Path) -> None:
    text = words(output(home, "budget", "plan", str(plan_file(home))))
    assert "policy.toml allows it" in text
    assert "exactly what is charged if nothing fails" in text
    assert "one customer at this party, added or removed, at delta 1.7e-05" in text


def test_a_delta_above_the_bound_has_no_cost_here(home: Path) -> None:
    change_plan(home, "epsilon = 1.0\n", "epsilon = 1.0\ndelta = 2e-5\n")
    error = failed(home, "budget", "plan", str(plan_file(home)))
    assert isinstance(error, PolicyRefusal)
    assert (error.reason, error.exit_code) == ("epsilon", 12)
    assert "1 / (10 * public_size)" in str(error)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("format = 1\n", "format = 1\nseed = 7\n", "seed: unknown key"),
        ("rounds = 3\n", "rounds = 3\nseed = 7\n", "training.seed: unknown key"),
        ("epsilon = 1.0\n", "epsilon = 0\n", "privacy.epsilon"),
        ("epsilon = 1.0\n", "epsilon = -1.0\n", "privacy.epsilon"),
        ("epsilon = 1.0\n", "epsilon = nan\n", "privacy.epsilon"),
        ("epsilon = 0.5\n", "epsilon = 0\n", "privacy.evaluation_epsilon"),
        ("epsilon = 1.0\n", "epsilon = 1.0\ndelta = 0\n", "privacy.delta"),
        ("epsilon = 1.0\n", "epsilon = 1.0\ndelta = 0.5\n", "privacy.delta"),
        ("rounds = 3\n", "rounds = 3\nsample_rate = 1.5\n", "training.sample_rate"),
        ("[task]", "[task", "not valid TOML"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(home: Path, old: str, new: str, named: str) -> None:
    change_plan(home, old, new)
    error = failed(home, "budget", "plan", str(plan_file(home)))
    assert isinstance(error, PlanError)
    assert error.exit_code == 11
    assert named in str(error)


def test_a_plan_that_cannot_be_read_is_named(home: Path) -> None:
    plan_file(home).unlink()
    for path in (plan_file(home), home):  # missing, and a folder
        error = failed(home, "budget", "plan", str(path))
        assert isinstance(error, ConfigError)
        assert "check the path" in str(error)
    plan_file(home).write_bytes(b"\xff\xfe")
    assert isinstance(failed(home, "budget", "plan", str(plan_file(home))), PlanError)


@pytest.mark.parametrize("command", [["show"], ["plan"]])
def test_a_broken_home_says_what_to_do(home: Path, command: list[str]) -> None:
    command = ["budget", *command, *([str(plan_file(home))] if command == ["plan"] else [])]
    settings = load_settings(home)
    content = settings.ledger.read_bytes()
    settings.ledger.write_bytes(content.replace(b"8.0", b"9.0", 1))
    error = failed(home, *command)
    assert isinstance(error, LedgerError)
    assert "line 1" in str(error)
    settings.ledger.unlink()
    assert "check that it exists" in str(failed(home, *command))
    settings.ledger.write_bytes(content)
    settings.ledger.chmod(0o600)
    change(settings.policy, "epsilon = 8.0", "epsilon = 0.0")
    error = failed(home, *command)
    assert isinstance(error, ConfigError)
    assert "budget.epsilon" in str(error)
    settings.policy.unlink()
    assert "fedtags-party init" in str(failed(home, *command))
    assert "init" in str(failed(home.parent / "nowhere", *command))
