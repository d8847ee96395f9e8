"""Stores that earlier versions left are read and written by this one, on each database."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import JSON, Column, MetaData, Table, create_engine, inspect, text
from sqlalchemy.engine import Engine

from privacy.errors import StoreError
from privacy.hosting.sealing import Sealing
from tests.profile_stores import CHURN, FIRST, PURPOSE, SECRET, batch, opened, sqlite_url, yes
from tests.vectors.make_profile_store import (
    OLD_HISTORY,
    OLD_PUBLICATIONS,
    OLD_VALUES,
    upgrade_to_first,
    write_first,
)

VECTORS = Path(__file__).parents[1] / "vectors"
THEN = datetime(2024, 7, 1, tzinfo=UTC)
OLD_NAMES = ("publications", "tag_values", "tag_history")


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as the first version left it."""
    if request.param == "sqlite":
        file = tmp_path / "profile.db"
        file.write_bytes((VECTORS / "profile_store_r0001.db").read_bytes())
        return sqlite_url(file)
    url: str = request.getfixturevalue(f"{request.param}_url")
    upgrade_to_first(url)
    engine = create_engine(url)
    tables = MetaData()
    Table("publications", tables, Column("parties", JSON), autoload_with=engine)
    tables.reflect(engine)
    with engine.begin() as connection:
        for run, plan, model, day, until in OLD_PUBLICATIONS:
            connection.execute(
                tables.tables["publications"].insert(),
                {
                    "run_id": run,
                    "plan_digest": plan,
                    "model_digest": model,
                    "parties": ["bank", "retailer", "shop"],
                    "epsilon": 1.75,
                    "delta": 1e-5,
                    "published_at": datetime.fromisoformat(f"{day}T09:30:00"),
                    "as_of": date.fromisoformat(day),
                    "valid_until": date.fromisoformat(until),
                    "status": "published",
                },
            )
        for name, rows in (("tag_values", OLD_VALUES), ("tag_history", OLD_HISTORY)):
            columns = [column.name for column in tables.tables[name].columns]
            for row in rows:
                values = dict(zip(columns, row, strict=True))
                values["valid_until"] = date.fromisoformat(str(values["valid_until"]))
                connection.execute(tables.tables[name].insert(), values)
    engine.dispose()
    return url


def everything(engine: Engine) -> str:
    """All that stands in a database, as text."""
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = {
            name: [tuple(row) for row in connection.execute(table.select())]
            for name, table in tables.tables.items()
        }
    return repr(found)


def test_a_store_of_the_first_version_keeps_its_tags_and_seals_its_customers(old: str) -> None:
    engine = create_engine(old)
    assert "customer-2" in everything(engine)
    store = opened(old)
    after = everything(engine)
    for customer in ("customer-1", "customer-2"):
        assert customer not in after
    assert not {f"{name}_r0001" for name in OLD_NAMES} & set(inspect(engine).get_table_names())
    with pytest.raises(StoreError, match="consent refresh"):
        store.profile("customer-2", purpose=PURPOSE, now=THEN)
    store.set_consents(None, now=THEN)
    (churn, propensity) = store.profile("customer-2", purpose=PURPOSE, now=THEN).tags
    assert (churn.value, churn.score, churn.provenance.run_id) == ("high", 0.875, "run-2")
    assert (propensity.value, propensity.provenance.run_id) == ("medium", "run-1")
    assert churn.valid_until == date(2024, 8, 30)
    assert churn.provenance.parties == ("bank", "retailer", "shop")
    assert (churn.provenance.consent_receipt, churn.provenance.kind) == ("", "joint")
    (earlier,) = store.history("customer-2", CHURN, purpose=PURPOSE, now=THEN)
    assert (earlier.value, earlier.replaced_by) == ("low", "run-2")
    store.publish(replace(FIRST, run_id="run-9"), [batch([("customer-2", "low", 0.1)])])
    (churn, _) = store.profile("customer-2", purpose=PURPOSE, now=THEN).tags
    assert churn.provenance.run_id == "run-9"
    store.close()
    engine.dispose()


def test_a_store_of_the_first_version_loses_customers_without_consent(old: str) -> None:
    store = opened(old)
    store.set_consents(yes(["customer-1"]), now=THEN)
    assert store.segment(CHURN, None, purpose=PURPOSE, now=THEN) == 1
    assert store.history("customer-2", CHURN, purpose=PURPOSE, now=THEN) == []
    store.close()


@pytest.mark.parametrize("server", ["mariadb"])
def test_an_upgrade_that_broke_off_is_run_again(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MariaDB cannot undo a change of tables: what is half done is done anew."""
    url: str = request.getfixturevalue(f"{server}_url")
    upgrade_to_first(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into publications values ('run-1', 'p', 'm', :parties, 1, 1e-5, "
                "'2024-06-01 09:30:00', '2024-06-01', '2024-08-30', 'published')"
            ),
            {"parties": json.dumps(["bank"])},
        )
        connection.execute(
            text(
                "insert into tag_values values ('customer-2', 'churn_risk', 'low', 0.1, 'run-1', "
                "'2024-08-30')"
            )
        )
    before = Sealing.index
    with monkeypatch.context() as patch:
        patch.setattr(Sealing, "index", _fails_in_the_migration(before))
        with pytest.raises(RuntimeError):
            opened(url)
    assert "customer-2" in everything(engine)
    store = opened(url)
    store.set_consents(None, now=THEN)
    assert len(store.profile("customer-2", purpose=PURPOSE, now=THEN).tags) == 1
    assert "customer-2" not in everything(engine)
    store.close()
    engine.dispose()


def _fails_in_the_migration(real: object) -> object:
    calls = []

    def index(self: Sealing, name: str) -> object:
        calls.append(name)
        if len(calls) > 1:  # the store's own is the first
            raise RuntimeError("the machine went down")
        return real(self, name)  # type: ignore[operator]

    return index


def test_the_first_versions_file_is_what_its_generator_writes(tmp_path: Path) -> None:
    again = tmp_path / "again.db"
    write_first(again)
    stored = create_engine(sqlite_url(VECTORS / "profile_store_r0001.db"))
    made = create_engine(sqlite_url(again))
    assert everything(made) == everything(stored)
    made.dispose()
    stored.dispose()


def test_a_store_of_the_second_version_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "profile.db"
    file.write_bytes((VECTORS / "profile_store_r0002.db").read_bytes())
    store = opened(sqlite_url(file), secret=SECRET)
    tags = {
        one.customer: (one.value, one.provenance.run_id)
        for one in store.export(CHURN, purpose=PURPOSE, now=THEN)
    }
    assert tags == {"customer-1": ("medium", "run-1"), "customer-2": ("high", "run-2")}
    (earlier,) = store.history("customer-2", CHURN, purpose=PURPOSE, now=THEN)
    assert earlier.value == "low"
    assert store.opted_out() == {"customer-3"}
    (model,) = store.participations("customer-2")
    assert (model.run_id, model.role, model.model_digest) == ("run-1", "trained", "b" * 64)
    events = store.pending_events()
    assert [one.type for one in events] == ["tags.changed", "tags.changed", "customer.opted_out"]
    assert events[-1].data == {"customer": "customer-3"}
    store.close()


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mariadb"])
def test_processes_that_start_together_open_one_new_store(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The service and the web process of a new home do."""
    if server == "sqlite":
        url = sqlite_url(tmp_path / "profile.db")
    else:
        url = request.getfixturevalue(f"{server}_url")
    program = (
        "import sys; from tests.profile_stores import opened; "
        "store = opened(sys.argv[1]); print(store.consent_known()); store.close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, url],
            cwd=VECTORS.parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "False\n"), error
