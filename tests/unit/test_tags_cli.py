"""`fedtags-party tags`, `customer` and `consent`, over a real profile store."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from party_client.cli import app
from party_client.profile_store import Publication, TagBatch, open_profile_store
from party_client.settings import HOME_VARIABLE, load_settings, party_toml
from privacy.errors import ConfigError, DataError, StoreError
from privacy.hosting.access_log import read_page

NOW = datetime.now(UTC)
FIRST = Publication(
    run_id="run-1",
    kind="joint",
    plan_digest="a" * 64,
    model_digest="b" * 64,
    parties=("bank", "retailer", "shop"),
    epsilon=1.9,
    delta=1e-5,
    published_at=NOW.replace(microsecond=0),
    as_of=date(2024, 6, 30),
    valid_until=NOW.date() + timedelta(days=90),
)
OLD = replace(FIRST, run_id="run-0", valid_until=NOW.date() - timedelta(days=1))
ROOT = Path(__file__).parents[2]
PROGRAM = "from party_client.cli import main; main()"
ODD = '=HYPERLINK("x"),\n客户'
FOR = ("--purpose", "marketing")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "bank"
    folder.mkdir()
    (folder / "party.toml").write_text(party_toml("bank", 6000))
    return folder


def tagged(tag: str, **scores: float) -> TagBatch:
    """One tag: high from .5 on."""
    values = ["high" if score >= 0.5 else "low" for score in scores.values()]
    return TagBatch(
        tag, list(scores), values, list(scores.values()), ["recency_days+"] * len(scores)
    )


@pytest.fixture
def filled(home: Path) -> Path:
    store = open_profile_store(load_settings(home))
    store.set_consents(None)
    store.publish(OLD, [tagged("churn_risk", c3=0.95, c1=0.05)])
    store.publish(
        FIRST,
        [
            tagged("churn_risk", **{"c1": 0.875, "c2": 0.125, ODD: 0.75}),
            tagged("purchase_propensity", c1=0.25),
        ],
    )
    store.record_participation("run-1", "churn-plan", "a" * 64, trained=["c1"], evaluated=["c2"])
    store.name_model("run-1", "b" * 64)
    store.close()
    return home


def call(home: Path, *arguments: str, group: str = "tags") -> Result:
    return CliRunner().invoke(app, ["--home", str(home), group, *arguments])


def output(home: Path, *arguments: str, group: str = "tags") -> str:
    result = call(home, *arguments, group=group)
    assert result.exit_code == 0, result.exception
    return result.stdout


# Show --------------------------------------------------------------------------------------------


def test_show_prints_every_tag_with_its_run_and_reasons(filled: Path) -> None:
    text = output(filled, "show", "c1", *FOR)
    assert "churn_risk (Churn risk, 流失风险): high, score 0.875\n" in text
    assert "because: has not bought for a long time (很久没有购买)\n" in text
    assert "purchase_propensity (Purchase propensity, 购买倾向): low, score 0.250\n" in text
    assert "run run-1 of bank, retailer, shop\n" in text
    assert "epsilon 1.9 at 1e-05\n" in text


def test_show_gives_json_with_provenance(filled: Path) -> None:
    shown = json.loads(output(filled, "show", " c1 ", *FOR, "--format", "json"))
    churn, propensity = shown.pop("tags")
    assert shown == {"customer": "c1", "purpose": "marketing", "consent": True, "opted_out": False}
    assert len(churn.pop("consent_receipt")) == 64
    assert churn == {
        "customer": "c1",
        "tag": "churn_risk",
        "value": "high",
        "score": 0.875,
        "reasons": ["recency_days+"],
        "valid_until": str(FIRST.valid_until),
        "kind": "joint",
        "run_id": "run-1",
        "plan_digest": "a" * 64,
        "model_digest": "b" * 64,
        "parties": ["bank", "retailer", "shop"],
        "epsilon": 1.9,
        "delta": 1e-5,
        "published_at": FIRST.published_at.isoformat(),
        "as_of": "2024-06-30",
        "status": "published",
    }
    assert propensity["value"] == "low"


def test_show_of_an_expired_tag_or_an_unknown_customer_says_that_nothing_may_be_read(
    filled: Path,
) -> None:
    for customer in ("c3", "nobody"):
        assert "may be read for this purpose now" in output(filled, "show", customer, *FOR)
        found = json.loads(output(filled, "show", customer, *FOR, "--format", "json"))
        assert found["tags"] == []


def test_show_says_why_nothing_may_be_read(filled: Path) -> None:
    store = open_profile_store(load_settings(filled))
    store.opt_out("c2", person="ann", reason="asked")
    store.set_consents([])
    store.close()
    assert "has opted out" in output(filled, "show", "c2", *FOR)
    assert "does not stand" in output(filled, "show", "c1", *FOR)


def test_an_unknown_purpose_is_a_config_error(filled: Path) -> None:
    for arguments in (("show", "c1"), ("export", "--tag", "churn_risk")):
        result = call(filled, *arguments, "--purpose", "whatever")
        assert isinstance(result.exception, ConfigError)
        assert "--purpose" in str(result.exception)


def test_history_shows_what_a_tag_was_before(filled: Path) -> None:
    (record,) = json.loads(
        output(filled, "history", "c1", "--tag", "churn_risk", *FOR, "--format", "json")
    )
    assert (record["value"], record["run_id"], record["replaced_by"]) == ("low", "run-0", "run-1")
    assert "replaced by run-1" in output(filled, "history", "c1", "--tag", "churn_risk", *FOR)
    assert "no earlier value" in output(filled, "history", "c2", "--tag", "churn_risk", *FOR)


def test_every_look_is_in_the_access_log_and_names_nobody(filled: Path) -> None:
    output(filled, "show", "c1", *FOR)
    output(filled, "export", "--tag", "churn_risk", *FOR)
    output(filled, "opt-out", "c2", "--reason", "asked", group="customer")
    lines, _ = read_page(load_settings(filled).access_log, 1, 10)
    assert [one.what for one in lines] == [
        "opt a customer out",
        "export a segment",
        "read a customer",
    ]
    assert all(one.who.startswith("os:") for one in lines)
    text = load_settings(filled).access_log.read_text()
    assert '"c1"' not in text
    assert '"c2"' not in text


# Customers ---------------------------------------------------------------------------------------


def test_a_customer_is_shown_with_all_that_is_held(filled: Path) -> None:
    found = json.loads(output(filled, "show", "c1", "--format", "json", group="customer"))
    assert (found["customer"], found["opted_out"], found["consent_known"]) == ("c1", False, True)
    assert {one["tag"] for one in found["purposes"]["marketing"]["tags"]} == {
        "churn_risk",
        "purchase_propensity",
    }
    (model,) = found["models"]
    assert (model["run_id"], model["role"], model["model_digest"]) == ("run-1", "trained", "b" * 64)
    text = output(filled, "show", "c1", group="customer")
    assert "marketing: consent stands; churn_risk=high" in text
    assert "run run-1, plan churn-plan, trained" in text
    assert "took part in no model" in output(filled, "show", "c3", group="customer")


def test_an_opt_out_removes_the_tags_lists_the_models_and_says_it_does_not_unlearn(
    filled: Path,
) -> None:
    text = output(filled, "opt-out", "c1", "--reason", "asked by letter", group="customer")
    assert "run run-1, plan churn-plan, trained" in text
    assert "does not unlearn" in text
    assert "has opted out" in output(filled, "show", "c1", *FOR)
    again = output(filled, "opt-out", "c1", "--reason", "x", "--format", "json", group="customer")
    assert json.loads(again)["repeated"] is True
    exported = json.loads(output(filled, "export", "--tag", "churn_risk", *FOR, "--format", "json"))
    assert "c1" not in {one["customer"] for one in exported}
    assert json.loads(output(filled, "show", "c1", "--format", "json", group="customer"))[
        "opted_out"
    ]


@pytest.mark.parametrize(("customer", "reason"), [("c1", " "), ("c1", "x" * 201), ("", "asked")])
def test_an_opt_out_without_a_customer_or_a_reason_is_refused(
    filled: Path, customer: str, reason: str
) -> None:
    result = call(filled, "opt-out", customer, "--reason", reason, group="customer")
    assert isinstance(result.exception, ConfigError | DataError)
    assert "churn_risk=high" in output(filled, "show", "c1", group="customer")


def test_consents_are_taken_over_from_the_source(home: Path) -> None:
    day = (NOW - timedelta(days=5)).date()
    (home / "events.csv").write_text(
        "customer,time,amount\n" + "".join(f"c{one},{day},5\n" for one in range(1, 4))
    )
    (home / "consent.csv").write_text("customer,consent\nc1,yes\nc2,no\n")
    settings = party_toml("bank", 6000).replace("events.parquet", "events.csv")
    consent = '[source.consent]\npath = "consent.csv"\ncustomer = "customer"\ngranted = "consent"\n'
    (home / "party.toml").write_text(
        settings.replace("[profile_store]", consent + "[profile_store]")
    )
    store = open_profile_store(load_settings(home))
    store.set_consents(None)
    store.publish(FIRST, [tagged("churn_risk", c1=0.9, c2=0.9)])
    store.close()
    assert "source's consents" in output(home, "refresh", group="consent")
    rows = json.loads(output(home, "export", "--tag", "churn_risk", *FOR, "--format", "json"))
    assert [one["customer"] for one in rows] == ["c1"]


# The key -----------------------------------------------------------------------------------------


def test_a_lost_key_is_not_made_anew_where_something_was_sealed(filled: Path) -> None:
    load_settings(filled).store_key.unlink()
    result = call(filled, "show", "c1", *FOR)
    assert isinstance(result.exception, StoreError)
    assert "restore it from the same backup" in str(result.exception)
    assert not load_settings(filled).store_key.exists()


def test_a_home_of_an_earlier_version_gets_its_key(home: Path) -> None:
    settings = load_settings(home)
    assert not settings.store_key.exists()
    open_profile_store(settings).close()
    assert stat.S_IMODE(settings.store_key.stat().st_mode) == 0o600
    open_profile_store(settings).close()


def test_the_databases_password_comes_by_reference(home: Path, postgresql_url: str) -> None:
    """The server trusts loopback: that the password is put in shows in what is refused."""
    text = party_toml("bank", 6000).replace(
        'url = "sqlite:///profile.db"',
        f'url = "{postgresql_url}"\npassword = "file:keys/db.password"',
    )
    (home / "party.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"db\.password"):
        open_profile_store(load_settings(home))
    (home / "keys").mkdir()
    secret = home / "keys" / "db.password"
    secret.write_text("p@ss:w/rd\n")
    secret.chmod(0o600)
    store = open_profile_store(load_settings(home))
    assert store._engine.url.password == "p@ss:w/rd"
    assert "p@ss" not in str(store._engine.url)
    store.close()


# Export ------------------------------------------------------------------------------------------


def test_export_writes_csv_that_reads_back_whatever_the_ids_are(filled: Path) -> None:
    rows = list(
        csv.DictReader(io.StringIO(output(filled, "export", *FOR, "--tag", "churn_risk=high")))
    )
    assert {row["customer"]: row["score"] for row in rows} == {"c1": "0.875", ODD: "0.75"}
    assert {row["run_id"] for row in rows} == {"run-1"}


def test_export_since_a_run_has_what_a_later_one_changed(filled: Path) -> None:
    since = ("--changed-since", "run-0", "--format", "json")
    rows = json.loads(output(filled, "export", *FOR, "--tag", "churn_risk", *since))
    assert {one["customer"] for one in rows} == {"c1", "c2", ODD}
    since = ("--changed-since", "run-1", "--format", "json")
    assert json.loads(output(filled, "export", *FOR, "--tag", "churn_risk", *since)) == []


def test_export_of_a_tag_has_all_values_but_no_expired_ones(filled: Path) -> None:
    rows = json.loads(output(filled, "export", *FOR, "--tag", "churn_risk", "--format", "json"))
    assert {row["customer"]: row["value"] for row in rows} == {
        "c1": "high",
        "c2": "low",
        ODD: "high",
    }


def test_an_export_of_nothing_is_still_a_table(filled: Path) -> None:
    assert output(filled, "export", *FOR, "--tag", "churn_risk=medium").startswith("customer,tag,")
    assert (
        json.loads(output(filled, "export", *FOR, "--tag", "churn_risk=medium", "--format", "json"))
        == []
    )


def test_an_exported_file_is_private_and_replaces_the_one_before(
    filled: Path, tmp_path: Path
) -> None:
    target = tmp_path / "tags.csv"
    target.write_text("before")
    output(filled, "export", *FOR, "--tag", "churn_risk=low", "--output", str(target))
    assert target.read_text().splitlines()[1].startswith("c2,churn_risk,low,0.125,")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bank", "tags.csv"]


def test_an_export_that_cannot_be_written_leaves_nothing(filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "tags.csv"
    result = call(filled, "export", *FOR, "--tag", "churn_risk", "--output", str(target))
    assert isinstance(result.exception, ConfigError)
    assert "--output" in str(result.exception)
    folder = tmp_path / "folder"
    folder.mkdir()
    result = call(filled, "export", *FOR, "--tag", "churn_risk", "--output", str(folder))
    assert isinstance(result.exception, ConfigError)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bank", "folder"]


@pytest.mark.parametrize("tag", ["loyalty", "churn_risk=lowest", "churn_risk=", "=high"])
def test_an_unknown_tag_or_value_is_a_config_error(filled: Path, tag: str) -> None:
    result = call(filled, "export", *FOR, "--tag", tag)
    assert isinstance(result.exception, ConfigError)
    assert "--tag" in str(result.exception)


def test_a_party_without_published_tags_says_so_and_makes_no_file(home: Path) -> None:
    result = call(home, "show", "c1", *FOR)
    assert isinstance(result.exception, StoreError)
    assert "no run has published" in str(result.exception)
    assert [one.name for one in home.iterdir()] == ["party.toml"]


def test_the_home_may_come_from_the_environment(filled: Path) -> None:
    result = CliRunner().invoke(app, ["tags", "show", "c1", *FOR], env={HOME_VARIABLE: str(filled)})
    assert result.exit_code == 0
    assert "run-1" in result.stdout


def test_a_reader_that_stops_early_is_no_error(home: Path) -> None:
    store = open_profile_store(load_settings(home))
    store.set_consents(None)
    store.publish(FIRST, [tagged("churn_risk", **{f"c{number}": 0.1 for number in range(3000)})])
    store.close()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "tags", "export", *FOR, "--tag", "churn_risk"],
        env={**os.environ, HOME_VARIABLE: str(home), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("customer,")
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_export_to_parquet_reads_back_with_its_columns(filled: Path, tmp_path: Path) -> None:
    file = tmp_path / "tags.parquet"
    output(
        filled,
        "export",
        *FOR,
        "--tag",
        "churn_risk=high",
        "--format",
        "parquet",
        "--output",
        str(file),
    )
    columns = parquet.read_table(file).to_pydict()
    assert sorted(zip(columns["customer"], columns["score"], strict=True)) == sorted(
        [("c1", 0.875), (ODD, 0.75)]
    )
    assert set(columns["run_id"]) == {"run-1"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_parquet_without_a_file_is_a_config_error(filled: Path) -> None:
    result = call(filled, "export", *FOR, "--tag", "churn_risk", "--format", "parquet")
    assert isinstance(result.exception, ConfigError)
