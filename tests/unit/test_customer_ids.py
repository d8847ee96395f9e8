"""Customer ids are normalised at the border: in logs, tables, consents, and as people type them."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from phonenumbers import PhoneNumberType, example_number_for_type

from models.plan import parse_plan
from models.tag_catalogue import load_catalogue
from party_client.customer_ids import fill_forms, form_sql, normalise
from party_client.profile_store import ProfileStore
from party_client.profile_tables import MAX_CUSTOMER_CHARACTERS
from party_client.readers import connect, take_in
from party_client.source_settings import SourceSettings
from party_client.sources import open_source
from privacy.errors import DataError
from privacy.hosting.sealing import Sealing

COLUMNS = {"customer": "who", "time": "at", "amount": "sum"}
PLAN = parse_plan(
    b"""
format = 1
name = "p"
purpose = "churn"
privacy = { epsilon = 1.0 }
task = { kind = "propensity", horizon_days = 30, cutoff = 2024-07-01 }
"""
)
TABLE_PLAN = parse_plan(
    b"""
format = 1
name = "p"
purpose = "churn"
privacy = { epsilon = 1.0 }
task = { kind = "label", label = "bad" }
features = { columns = [{ name = "age", low = 18, high = 99 }] }
"""
)


def ids(form: str, region: str | None = None, **changes: Any) -> SourceSettings:
    given = {"path": "log.csv", "columns": COLUMNS, "customer_ids": form, "region": region}
    return SourceSettings.model_validate(given | changes)


OPAQUE, EMAIL, PHONE = ids("opaque"), ids("email"), ids("phone", "CN")


@pytest.mark.parametrize(
    "typed",
    [
        *("13800138000", "+8613800138000", "138 0013 8000", "+86 (138) 0013-8000"),
        *("008613800138000", "8613800138000", "tel:+86-138-0013-8000", " 13800138000\n"),
        "１３８００１３８０００",
    ],
)
def test_every_way_to_write_a_phone_number_is_one_customer(typed: str) -> None:
    assert normalise(typed, PHONE) == "+8613800138000"


def test_a_phone_number_needs_its_country_code_where_no_region_is_given() -> None:
    anywhere = ids("phone")
    assert normalise("+44 20 7946 0958", anywhere) == "+442079460958"
    assert normalise("+44 (0)20 7946 0958", anywhere) == "+442079460958"
    with pytest.raises(DataError, match="no phone number"):
        normalise("020 7946 0958", anywhere)


@pytest.mark.parametrize(
    "typed",
    ["", "abc", "12", "13800138000 ext 5", "1-800-FLOWERS", "+86138001380001234", "9" * 2000],
)
def test_what_is_no_phone_number_is_refused_unseen(typed: str) -> None:
    with pytest.raises(DataError, match="no phone number") as raised:
        normalise(typed, PHONE)
    assert not typed or typed not in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("Ann.Smith+x@Shop.Example", "ann.smith+x@shop.example"),
        ("ann@bücher.de", "ann@bücher.de"),
        ("ann@xn--bcher-kva.de", "ann@bücher.de"),
        ("ÄNN@shop.com", "änn@shop.com"),
        ("A\u0308nn@shop.com", "änn@shop.com"),
    ],
)
def test_an_address_is_lower_case_and_its_domain_is_in_one_form(typed: str, form: str) -> None:
    assert normalise(typed, EMAIL) == form
    assert normalise(form, EMAIL) == form


@pytest.mark.parametrize(
    "typed",
    ["", "ann", "ann@", "@shop.com", "a@b@c.com", "ann@shop", "Ann <ann@shop.com>", "a@x.test"],
)
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(DataError, match="no e-mail address"):
        normalise(typed, EMAIL)


def test_an_opaque_id_is_trimmed_and_no_more() -> None:
    assert normalise(" Robert'); DROP TABLE customers;-- \t", OPAQUE) == (
        "Robert'); DROP TABLE customers;--"
    )
    for typed in ("", "  ", "a\ufffd", "x" * 1001):
        with pytest.raises(DataError, match="the customer id cannot be used"):
            normalise(typed, OPAQUE)


def in_sql(raw: list[str], settings: SourceSettings, home: Path) -> list[str | None]:
    """The forms that DuckDB gives, in order."""
    spill = home / f".spill-{random.random()}"
    connection = connect("200MB", 1, spill)
    table = pa.table({"place": range(len(raw)), "raw": pa.array(raw, pa.string())})
    take_in(connection, "CREATE TABLE typed AS SELECT *", table)
    fill_forms(connection, "SELECT raw FROM typed", settings)
    rows = connection.execute(
        f"SELECT {form_sql('raw', settings)} FROM typed ORDER BY place"
    ).fetchall()
    connection.close()
    return [form for (form,) in rows]


def typed_form(raw: str, settings: SourceSettings) -> str | None:
    try:
        return normalise(raw, settings)
    except DataError:
        return None


@pytest.mark.parametrize("region", ["CN", "US", "GB", "IT", "DE", "BR", "AR", "MX", "RU", "IN"])
def test_sql_and_the_library_give_a_number_one_form(region: str, tmp_path: Path) -> None:
    settings = ids("phone", region)
    example = example_number_for_type(region, PhoneNumberType.MOBILE)
    national, code = str(example.national_number), f"+{example.country_code}"
    choose = random.Random(region)
    raw = [
        choose.choice(["", code, code[1:], "0", f"{code}0"])
        + national[: (kept := choose.choice([0, 1, 2, 3, 5]))]
        + "".join(choose.choices("0123456789", k=len(national) - kept + choose.choice([0, 0, 1])))
        for _ in range(400)
    ] + [national, code + national]
    forms = in_sql(raw, settings, tmp_path)
    assert forms == [typed_form(one, settings) for one in raw]
    assert forms[-2:] == [code + national] * 2


@examples(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.emails(),
            st.text("aZ0.-+_@é\u212a ", max_size=12).map(lambda text: f"{text}@Shop.com"),
            st.text("aZ0.-_xn", max_size=12).map(lambda text: f"ann@{text}.com"),
            st.sampled_from(["a@shop.local", "a@x.TEST", "A@LOCALHOST", "a@shop.c0", "a@1.co"]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_sql_and_the_library_give_an_address_one_form(
    tmp_path_factory: pytest.TempPathFactory, raw: list[str]
) -> None:
    trimmed = [one.strip(" \t\r\n") for one in raw]
    home = tmp_path_factory.mktemp("ids")
    forms = in_sql(trimmed, EMAIL, home)
    assert forms == [typed_form(one, EMAIL) for one in trimmed]
    known = [form for form in forms if form is not None]
    assert in_sql(known, EMAIL, home) == known


LOG = """who,at,sum
138-0013-8000,2024-06-01,1
+8613800138000,2024-06-02,2
13800138000,2024-07-05,3
+8613900139000,2024-06-02,4
call me,2024-06-02,5
'; DROP TABLE events; --,2024-06-03,6
"""


def test_two_ways_to_write_a_customer_are_one_customer_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "consent.csv").write_text("id,ok\n+86 138 0013 8000,yes\n139 0013 9000,yes\n")
    consent = {"path": "consent.csv", "customer": "id", "granted": "ok"}
    log = ids("phone", "CN", consent=consent)
    with open_source(log, tmp_path, today=date(2025, 1, 1)) as source:
        training = source.training_examples(PLAN, "bank")
        rows = source.consent_rows()
        assert rows is not None
        assert {row.customer for row in rows} == {"+8613800138000", "+8613900139000"}
    assert training.customer_ids == ["+8613800138000", "+8613900139000"]
    assert training.labels is not None
    assert training.labels.tolist() == [1.0, 0.0]
    assert training.rejected == {"unusable_customer_id": 2}
    written = (tmp_path / "rejected" / "rejected.csv").read_text()
    assert "call me" in written
    assert "DROP TABLE" in written


def test_who_opted_out_is_out_however_the_log_writes_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    out = [normalise("138 0013 8000", PHONE)]
    with open_source(PHONE, tmp_path, today=date(2025, 1, 1), opted_out=lambda: out) as source:
        assert source.scoring_examples(PLAN, "bank").customer_ids == ["+8613900139000"]
        out.clear()
        assert len(source.scoring_examples(PLAN, "bank").customer_ids) == 2


def test_who_opted_out_stays_out_when_ids_get_a_form(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "who,at,sum\n138 0013 8000,2024-06-01,1\n13800138001,2024-06-01,1\n", encoding="utf-8"
    )
    typed = normalise("138 0013 8000", OPAQUE)
    for kind in (OPAQUE, PHONE):
        with open_source(
            kind, tmp_path, today=date(2025, 1, 1), opted_out=lambda: [typed, "no number"]
        ) as source:
            rows = source.scoring_examples(PLAN, "bank").customer_ids
        assert rows == [normalise("13800138001", kind)]


def test_an_id_that_is_used_can_be_kept_and_can_opt_out(tmp_path: Path) -> None:
    used, too_long = "y" * MAX_CUSTOMER_CHARACTERS, "x" * (MAX_CUSTOMER_CHARACTERS + 1)
    (tmp_path / "log.csv").write_text(
        f"who,at,sum\n{too_long},2024-06-01,1\n{used},2024-06-01,1\nb,2024-06-01,1\n"
    )
    with open_source(OPAQUE, tmp_path, today=date(2025, 1, 1)) as source:
        assert source.scoring_examples(PLAN, "bank").customer_ids == ["b", used]
        assert source.check().rejected == {"unusable_customer_id": 1}
    store = ProfileStore(f"sqlite:///{tmp_path}/s.db", Sealing(b"k" * 32), load_catalogue())
    try:
        store.opt_out(normalise(used, OPAQUE), person="p", reason="r")
        assert store.opted_out() == {used}
    finally:
        store.close()
    with pytest.raises(DataError, match="longer than 255"):
        normalise(too_long, OPAQUE)


def test_a_consent_for_an_id_that_has_no_form_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "consent.csv").write_text("id,ok\n13800138000,yes\ncall-4711,no\n")
    consent = {"path": "consent.csv", "customer": "id", "granted": "ok"}
    with (
        open_source(ids("phone", "CN", consent=consent), tmp_path) as source,
        pytest.raises(DataError, match=r"an id that is no phone \(source.customer_ids\)") as raised,
    ):
        source.consent_rows()
    assert "4711" not in str(raised.value)


def test_two_rows_of_a_table_that_are_one_customer_are_an_error(tmp_path: Path) -> None:
    table = ids("phone", "CN", kind="table", columns={"customer": "who"}, path="table.csv")
    lines = "who,age,bad\n13800138000,20,0\n13900139000,30,1\nnobody,40,1\n,50,1\n"
    (tmp_path / "table.csv").write_text(lines)
    with open_source(table, tmp_path) as source:
        rows = source.training_examples(TABLE_PLAN, "bank")
        assert rows.customer_ids == ["+8613800138000", "+8613900139000"]
        assert rows.rejected == {"missing_customer": 1, "unusable_customer_id": 1}
    (tmp_path / "table.csv").write_text(lines + "+8613800138000,60,1\n")
    with (
        open_source(table, tmp_path) as source,
        pytest.raises(DataError, match="two rows of the feature table have one id"),
    ):
        source.training_examples(TABLE_PLAN, "bank")


@examples(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text("+0123456789-() ext#;=./*,\u0663\uff10\u00a0", max_size=40),
        st.text("a@.-_xn\u0130\u00df\u3002\u200d\u0660", max_size=40),
    ),
    st.sampled_from([PHONE, ids("phone"), ids("phone", "IT"), EMAIL, OPAQUE]),
)
def test_any_text_has_a_form_that_stays_as_it_is_or_is_refused(
    typed: str, settings: SourceSettings
) -> None:
    # Another error would let one customer's id stop the reading of all others.
    form = typed_form(typed, settings)
    assert form is None or typed_form(form, settings) == form


def test_sql_in_a_customer_id_is_a_customer_id(tmp_path: Path) -> None:
    odd = ["x'); DROP TABLE events; --", 'y" OR 1=1', "z\\'; DELETE FROM consents"]
    quoted = [one.replace('"', '""') for one in odd]
    (tmp_path / "log.csv").write_text(
        "who,at,sum\n" + "".join(f'"{one}",2024-06-01,1\n' for one in [*quoted, "a", "b"])
    )
    (tmp_path / "consent.csv").write_text(
        "id,ok\n" + "".join(f'"{one}",yes\n' for one in [*quoted, "a"])
    )
    consent = {"path": "consent.csv", "customer": "id", "granted": "ok"}
    out = [odd[1]]
    log = ids("opaque", consent=consent)
    with open_source(log, tmp_path, today=date(2025, 1, 1), opted_out=lambda: out) as source:
        assert source.scoring_examples(PLAN, "bank").customer_ids == ["a", odd[0], odd[2]]
        rows = source.consent_rows()
        assert rows is not None
        assert {row.customer for row in rows} == {*odd, "a"}
    assert [normalise(one, log) for one in odd] == odd
