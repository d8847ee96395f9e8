"""`fedtags-party budget plan` against a real run: what it says before is what is charged after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from party_client.cli import app
from privacy.errors import CohortError
from tests.integration.conftest import PLAN, LocalRun, changed


def ask(home: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(app, ["--home", str(home), "budget", *arguments, "--format=json"])
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_a_runs_cost_is_predicted_exactly_while_the_service_runs(
    local: LocalRun, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN)
    home = local.federation.homes["bank"]
    local.service("bank")  # it holds the home open, as in service
    before = ask(home, "plan", str(plan))
    assert (before["refusals"], before["admitted"], before["budget_used"]) == ([], True, 0)
    local.run()
    after = ask(home, "show")
    assert after["epsilon_spent"] == before["at_ledger_delta"]["epsilon"]
    assert after["budget_used"] == before["budget_share"]
    assert after["open_reservations"] == []
    report = json.loads((home / "reports" / "run-1.json").read_text())
    assert report["epsilon_run"] == before["at_run_delta"]["epsilon"]
    assert report["epsilon_spent"] == after["epsilon_spent"]
    assert report["budget_used"] == after["budget_used"]
    assert ask(home, "plan", str(plan))["runs_left"] == before["runs_left"] - 1


def test_a_sub_limit_of_the_policy_stops_the_run_that_would_pass_it(
    local: LocalRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = local.federation.homes["bank"]
    policy = home / "policy.toml"
    limit = '[[budget.limit]]\nname = "marketing a year"\nepsilon = 1.5\nwindow = "year"\n'
    policy.write_text(policy.read_text() + limit + 'purpose = "marketing"\n')
    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN)
    asked = ask(home, "plan", str(plan))
    assert (asked["binding"], asked["runs_left"]) == ("marketing a year", 1)
    local.run()
    with pytest.raises(CohortError, match=r"bank \(budget\)"):
        local.run(run_id="run-2")
    assert "limit marketing a year" in caplog.text
    assert "run-2" not in (home / "ledger.jsonl").read_text()
    local.run(changed(PLAN, '"marketing"', '"retention"'), run_id="run-3")


def test_a_plan_with_a_delta_above_the_bound_is_refused_and_not_run_at_another(
    local: LocalRun, caplog: pytest.LogCaptureFixture
) -> None:
    above = changed(PLAN, "epsilon = 1.0\nevaluation", "delta = 1e-3\nepsilon = 1.0\nevaluation")
    with pytest.raises(CohortError, match=r"\(epsilon\)"):
        local.run(above)
    assert "1 / (10 * public_size)" in caplog.text
    assert all(
        "reserve" not in (home / "ledger.jsonl").read_text()
        for home in local.federation.homes.values()
    )
