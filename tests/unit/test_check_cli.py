"""`fedtags-party check`: what it prints, what it writes, and when it fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from party_client.cli import app
from party_client.profile_store import open_profile_store
from party_client.quality import QualityReport, load_report
from party_client.settings import load_settings
from privacy.errors import ConfigError, DataError

LOG = "customer,time,amount\n" + "".join(
    f"c{number % 40},2024-{1 + number % 12:02d}-{1 + number % 28:02d}T1{number % 8}:30:00,"
    f"{5 + number % 17}.49\n"
    for number in range(400)
)
PLAN = b"""
format = 1
name = "p"
purpose = "retention"
task = { kind = "churn", horizon_days = 30, cutoff = 2024-10-01 }
privacy = { epsilon = 1.0 }
"""


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(home), *arguments], terminal_width=200)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A party with a small event log."""
    folder = tmp_path / "party"
    assert run(folder, "init", "--party", "p", "--public-size", "1000").exit_code == 0
    settings = folder / "party.toml"
    settings.write_text(settings.read_text().replace("events.parquet", "log.csv"))
    (folder / "log.csv").write_text(LOG)
    return folder


def demand(home: Path, *lines: str) -> None:
    """Put `lines` in place of policy.toml's [quality]."""
    policy = home / "policy.toml"
    kept: list[str] = []
    skipping = False
    for line in policy.read_text().splitlines():
        if line.startswith("["):
            skipping = line.strip() == "[quality]"
        if not skipping:
            kept.append(line)
    policy.write_text("\n".join([*kept, "[quality]", *lines]) + "\n")


def as_json(home: Path, *more: str) -> tuple[Sequence[str], QualityReport]:
    result = run(home, "check", "--format", "json", *more)
    assert result.exit_code == 0, result.output
    plain = json.loads(result.output)
    return sorted(plain), QualityReport.from_json(plain["quality"])


def test_check_prints_the_source_and_every_rule_with_its_verdict(home: Path) -> None:
    result = run(home, "check")
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert "rows read 400" in words
    assert "customers 40" in words
    assert "rule verdict looked at failing share of" in words
    assert "no_duplicates pass 400 0 0 % rows" in words
    assert "freshness look 1 1 100 % log" in words
    assert "days old): The log reaches to the last 45 days. Export again," in words
    assert (home / "quality" / "report.html").is_file()


def test_warnings_alone_end_with_success_and_json_holds_both_parts(home: Path) -> None:
    keys, report = as_json(home)
    assert {"rows_read", "rejected", "eligible", "clamped", "quality"} <= set(keys)
    assert report.rows_read == 400
    assert any(one.verdict == "look" for one in report.results)
    stored = json.loads((home / "quality" / "report.json").read_text())
    assert QualityReport.from_json(stored) == report


def test_with_a_plan_its_own_rules_are_looked_at(home: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN)
    _, report = as_json(home, "--plan", str(plan))
    assert report.plan == "p"
    window = report.result("covers_label_window")
    assert window is not None
    assert window.verdict == "pass"


def test_where_nobody_is_eligible_for_a_plan_the_report_says_why(
    home: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN.replace(b"2024-10-01", b"2026-01-01"))
    result = run(home, "check", "--plan", str(plan))
    assert isinstance(result.exception, DataError)
    assert "no customer is eligible" in str(result.exception)
    stored = load_report(home / "quality" / "report.json")
    assert stored is not None
    window = stored.result("covers_label_window")
    assert window is not None
    assert (window.looked_at, window.failing, window.verdict) == (30, 30, "look")
    assert window.note.startswith("needs 2026-01-01")


def test_the_page_is_written_where_it_is_asked_for_for_this_user_only(
    home: Path, tmp_path: Path
) -> None:
    target = tmp_path / "page.html"
    assert run(home, "check", "--html", str(target)).exit_code == 0
    assert target.read_text() == (home / "quality" / "report.html").read_text()
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_second_check_is_compared_with_the_first(home: Path) -> None:
    as_json(home)
    (home / "log.csv").write_text(LOG + "c1,2024-12-31T12:00:00,4.50\n")
    _, report = as_json(home)
    assert report.earlier is not None
    kept = report.result("history_kept")
    assert kept is not None
    assert kept.verdict == "pass"


def test_a_policy_that_is_not_met_fails_after_the_report_is_written(home: Path) -> None:
    with (home / "log.csv").open("a") as log:
        log.write(",2024-06-01,1.50\n" * 100)
    demand(home, "minimum_usable_share = 0.9")
    result = run(home, "check")
    assert isinstance(result.exception, DataError)
    assert "minimum_usable_share" in str(result.exception)
    assert "customer_present" in result.output
    assert (home / "quality" / "report.json").is_file()
    demand(home, "minimum_usable_share = 0.5")
    assert run(home, "check").exit_code == 0


def test_a_rule_that_a_policy_requires_is_named_when_it_fails(home: Path) -> None:
    demand(home, 'require = ["no_duplicates", "freshness"]')
    result = run(home, "check")
    assert isinstance(result.exception, DataError)
    assert "freshness" in str(result.exception)
    assert result.exception.exit_code == 19
    demand(home, 'require = ["no_duplicates"]', "tolerated = { freshness = 1.0 }")
    words = " ".join(run(home, "check").output.split())
    assert "freshness pass 1 1 100 % log" in words


def test_a_broken_earlier_report_is_said_before_the_source_is_read(home: Path) -> None:
    (home / "quality").mkdir()
    (home / "quality" / "report.json").write_text("{}")
    (home / "log.csv").unlink()
    result = run(home, "check")
    assert isinstance(result.exception, ConfigError)
    assert "remove it and run fedtags-party check" in str(result.exception)


def test_who_opted_out_is_not_counted_as_consenting_and_no_store_is_made_to_ask(
    home: Path,
) -> None:
    database = home / "profile.db"
    database.unlink(missing_ok=True)
    before = json.loads(run(home, "check", "--format", "json").output)["consented"]
    assert not database.exists()
    store = open_profile_store(load_settings(home))
    store.opt_out("c7", person="ann", reason="asked")
    store.close()
    assert database.exists()
    after = json.loads(run(home, "check", "--format", "json").output)["consented"]
    assert after == before - 1
