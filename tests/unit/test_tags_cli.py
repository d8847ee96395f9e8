"""`fedtags-party tags show` and `tags export`, over a real profile store."""

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
from party_client.profile_store import ProfileStore, Publication
from party_client.settings import HOME_VARIABLE, load_settings, party_toml
from privacy.errors import ConfigError, StoreError

NOW = datetime.now(UTC)
FIRST = Publication(
    run_id="run-1",
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


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "bank"
    folder.mkdir()
    (folder / "party.toml").write_text(party_toml("bank", 6000))
    return folder


@pytest.fixture
def filled(home: Path) -> Path:
    store = ProfileStore(load_settings(home).profile_store_url)
    store.publish(OLD, [("c3", "churn_risk", "high", 0.95), ("c1", "churn_risk", "low", 0.05)])
    store.publish(
        FIRST,
        [
            ("c1", "churn_risk", "high", 0.875),
            ("c2", "churn_risk", "low", 0.125),
            ("c1", "purchase_propensity", "low", 0.25),
            (ODD, "churn_risk", "high", 0.75),
        ],
    )
    store.close()
    return home


def call(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(home), "tags", *arguments])


def output(home: Path, *arguments: str) -> str:
    result = call(home, *arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_show_prints_every_tag_with_its_run(filled: Path) -> None:
    text = output(filled, "show", "c1")
    assert "churn_risk (Churn risk, 流失风险): high, score 0.875\n" in text
    assert "purchase_propensity (Purchase propensity, 购买倾向): low, score 0.250\n" in text
    assert "run run-1 of bank, retailer, shop\n" in text
    assert "epsilon 1.9 at 1e-05\n" in text


def test_show_gives_json_with_provenance(filled: Path) -> None:
    churn, propensity = json.loads(output(filled, "show", "c1", "--format", "json"))
    assert churn == {
        "customer": "c1",
        "tag": "churn_risk",
        "value": "high",
        "score": 0.875,
        "status": "valid",
        "valid_until": FIRST.valid_until.isoformat(),
        "run_id": "run-1",
        "plan_digest": "a" * 64,
        "model_digest": "b" * 64,
        "parties": ["bank", "retailer", "shop"],
        "epsilon": 1.9,
        "delta": 1e-5,
        "published_at": FIRST.published_at.isoformat(),
        "as_of": "2024-06-30",
    }
    assert propensity["value"] == "low"


def test_show_marks_an_expired_tag(filled: Path) -> None:
    (record,) = json.loads(output(filled, "show", "c3", "--format", "json"))
    assert record["status"] == "expired"
    assert "expired" in output(filled, "show", "c3")


def test_show_of_a_customer_without_tags_is_no_error(filled: Path) -> None:
    assert output(filled, "show", "nobody") == "no tag is stored for this customer\n"
    assert json.loads(output(filled, "show", "nobody", "--format", "json")) == []


def test_export_writes_csv_that_reads_back_whatever_the_ids_are(filled: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(output(filled, "export", "--tag", "churn_risk=high"))))
    assert {row["customer"]: row["score"] for row in rows} == {"c1": "0.875", ODD: "0.75"}
    assert {row["run_id"] for row in rows} == {"run-1"}


def test_export_of_a_tag_has_all_values_but_no_expired_ones(filled: Path) -> None:
    rows = json.loads(output(filled, "export", "--tag", "churn_risk", "--format", "json"))
    assert {row["customer"]: row["value"] for row in rows} == {
        "c1": "high",
        "c2": "low",
        ODD: "high",
    }


def test_an_export_of_nothing_is_still_a_table(filled: Path) -> None:
    assert output(filled, "export", "--tag", "churn_risk=medium").startswith("customer,tag,")
    assert (
        json.loads(output(filled, "export", "--tag", "churn_risk=medium", "--format", "json")) == []
    )


def test_an_exported_file_is_private_and_replaces_the_one_before(
    filled: Path, tmp_path: Path
) -> None:
    target = tmp_path / "tags.csv"
    target.write_text("before")
    output(filled, "export", "--tag", "churn_risk=low", "--output", str(target))
    assert target.read_text().splitlines()[1].startswith("c2,churn_risk,low,0.125,")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bank", "tags.csv"]


def test_an_export_that_cannot_be_written_leaves_nothing(filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "tags.csv"
    result = call(filled, "export", "--tag", "churn_risk", "--output", str(target))
    assert isinstance(result.exception, ConfigError)
    assert "--output" in str(result.exception)
    folder = tmp_path / "folder"
    folder.mkdir()
    result = call(filled, "export", "--tag", "churn_risk", "--output", str(folder))
    assert isinstance(result.exception, ConfigError)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bank", "folder"]


@pytest.mark.parametrize("tag", ["loyalty", "churn_risk=lowest", "churn_risk=", "=high"])
def test_an_unknown_tag_or_value_is_a_config_error(filled: Path, tag: str) -> None:
    result = call(filled, "export", "--tag", tag)
    assert isinstance(result.exception, ConfigError)
    assert "--tag" in str(result.exception)


def test_a_party_without_published_tags_says_so_and_makes_no_file(home: Path) -> None:
    result = call(home, "show", "c1")
    assert isinstance(result.exception, StoreError)
    assert "no run has published" in str(result.exception)
    assert [one.name for one in home.iterdir()] == ["party.toml"]


def test_the_home_may_come_from_the_environment(filled: Path) -> None:
    result = CliRunner().invoke(app, ["tags", "show", "c3"], env={HOME_VARIABLE: str(filled)})
    assert result.exit_code == 0
    assert "run-0" in result.stdout


def test_a_reader_that_stops_early_is_no_error(home: Path) -> None:
    store = ProfileStore(load_settings(home).profile_store_url)
    store.publish(FIRST, [(f"c{number}", "churn_risk", "low", 0.1) for number in range(3000)])
    store.close()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "tags", "export", "--tag", "churn_risk"],
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
        filled, "export", "--tag", "churn_risk=high", "--format", "parquet", "--output", str(file)
    )
    columns = parquet.read_table(file).to_pydict()
    assert sorted(zip(columns["customer"], columns["score"], strict=True)) == sorted(
        [("c1", 0.875), (ODD, 0.75)]
    )
    assert set(columns["run_id"]) == {"run-1"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_parquet_without_a_file_is_a_config_error(filled: Path) -> None:
    result = call(filled, "export", "--tag", "churn_risk", "--format", "parquet")
    assert isinstance(result.exception, ConfigError)
