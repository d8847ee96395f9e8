"""Consents with purposes and times: which row speaks for a customer, and when it stands."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from models.plan import Plan, parse_plan
from party_client.consent import ConsentRow
from party_client.source_settings import SourceSettings
from party_client.sources import Source, open_source
from privacy.errors import ConfigError, DataError

NOW = datetime(2025, 1, 1, 12, tzinfo=UTC)
MAPPED = {
    "path": "consent.csv",
    "customer": "id",
    "granted": "ok",
    "purpose": "why",
    "granted_at": "since",
    "expires_at": "until",
    "withdrawn_at": "gone",
}
HEADER = "id,ok,why,since,until,gone\n"


def plan(purpose: str = "churn") -> Plan:
    return parse_plan(
        f'format = 1\nname = "p"\npurpose = "{purpose}"\nprivacy = {{ epsilon = 1.0 }}\n'
        'task = { kind = "propensity", horizon_days = 30, cutoff = 2024-07-01 }\n'.encode()
    )


def settings(consent: dict[str, Any], **changes: Any) -> SourceSettings:
    columns = {"customer": "who", "time": "at", "amount": "sum"}
    return SourceSettings.model_validate(
        {"path": "log.csv", "columns": columns, "consent": consent} | changes
    )


def opened(home: Path, lines: str, *, now: datetime = NOW, **changes: Any) -> Source:
    customers = "abcdefgh"
    rows = "".join(f"{customer},2024-06-01,1\n" for customer in customers)
    (home / "log.csv").write_text("who,at,sum\n" + rows)
    (home / "consent.csv").write_text(lines)
    consent = {name: own for name, own in (MAPPED | changes).items() if own is not None}
    return open_source(settings(consent), home, today=date(2025, 1, 1), now=lambda: now)


def admitted(source: Source, purpose: str = "churn") -> str:
    try:
        return "".join(source.scoring_examples(plan(purpose), "bank").customer_ids)
    except DataError as error:
        if "no customer is eligible" not in str(error):
            raise
        return ""


def test_a_consent_stands_from_its_beginning_until_it_expires_or_is_withdrawn(
    tmp_path: Path,
) -> None:
    lines = (
        "a,yes,churn,2024-01-01,,\n"
        "b,yes,churn,2024-01-01,2025-01-01 12:00:00,\n"  # expires at this moment
        "c,yes,churn,2024-01-01,2025-01-01 12:00:01,\n"
        "d,yes,churn,2024-01-01,,2025-01-01 12:00:00\n"  # withdrawn at this moment
        "e,yes,churn,2024-01-01,,2025-01-01 12:00:01\n"
        "f,yes,churn,2025-01-01 12:00:00,,\n"  # begins at this moment
        "g,yes,churn,2025-01-01 12:00:01,,\n"
        "h,no,churn,2024-01-01,,\n"
    )
    with opened(tmp_path, HEADER + lines) as source:
        assert admitted(source) == "acef"


def test_consent_is_looked_at_when_it_is_asked_for(tmp_path: Path) -> None:
    clock = [NOW]
    with opened(tmp_path, HEADER + "a,yes,churn,2024-01-01,2025-06-01,\n") as source:
        source._now = lambda: clock[0]
        assert admitted(source) == "a"
        clock[0] = datetime(2025, 6, 1, tzinfo=UTC)
        assert admitted(source) == ""


def test_a_purpose_needs_its_own_consent_and_a_star_means_every_purpose(tmp_path: Path) -> None:
    lines = (
        "a,yes,churn,2024-01-01,,\n"
        "b,yes,offers,2024-01-01,,\n"
        "c,yes,*,2024-01-01,,\n"
        # The newest word on a purpose counts, for all purposes or for this one.
        "d,yes,*,2024-01-01,,\nd,no,churn,2024-02-01,,\n"
        "e,no,*,2024-01-01,,\ne,yes,churn,2024-02-01,,\n"
        "f,yes,churn,2024-01-01,,\nf,no,*,2024-02-01,,\n"
    )
    with opened(tmp_path, HEADER + lines) as source:
        assert admitted(source, "churn") == "ace"
        assert admitted(source, "offers") == "bcd"
        assert admitted(source, "credit") == "cd"
        assert source.check().consented == 5  # to any purpose; f withdrew from all


def test_without_a_purpose_column_a_consent_is_for_every_purpose(tmp_path: Path) -> None:
    lines = "id,ok,since\na,yes,2024-01-01\n"
    left_out = {"purpose": None, "expires_at": None, "withdrawn_at": None}
    with opened(tmp_path, lines, **left_out) as source:
        assert admitted(source, "churn") == admitted(source, "offers") == "a"


def test_the_newest_row_decides_and_rows_of_one_moment_must_all_say_yes(tmp_path: Path) -> None:
    lines = (
        "a,no,churn,2024-01-01,,\na,yes,churn,2024-02-01,,\n"
        "b,yes,churn,2024-02-01,,\nb,no,churn,2024-01-01,,\n"
        "c,yes,churn,2024-01-01,,\nc,no,churn,2024-01-01,,\n"  # a tie is a no
        "d,yes,churn,2024-01-01,,\nd,yes,churn,2024-01-01,2024-06-01,\n"  # a tie, one expired
        "e,yes,churn,2024-01-01,2024-06-01,\ne,yes,churn,2024-07-01,,\n"  # given again
        "f,yes,churn,2024-01-01,,\nf,yes,churn,2024-03-01,,2024-04-01\n"  # withdrawn last
        "g,yes,churn,2024-01-01,,\ng,no,churn,2026-01-01,,\n"  # a no to come counts now
    )
    with opened(tmp_path, HEADER + lines) as source:
        assert admitted(source) == "abe"


def test_without_times_of_granting_every_row_must_stand(tmp_path: Path) -> None:
    lines = "id,ok,gone\na,yes,\nb,yes,\nb,no,\nc,yes,\nc,yes,2024-01-01\n"
    left_out = {"purpose": None, "granted_at": None, "expires_at": None}
    with opened(tmp_path, lines, **left_out) as source:
        assert admitted(source) == "a"


def test_a_row_is_a_yes_where_no_column_says_otherwise(tmp_path: Path) -> None:
    lines = "id,since,gone\na,2024-01-01,\nb,2024-01-01,2024-05-01\n"
    left_out = {"granted": None, "purpose": None, "expires_at": None}
    with opened(tmp_path, lines, **left_out) as source:
        assert admitted(source) == "a"


def test_a_mapping_by_which_nothing_says_yes_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing in the table says yes"):
        settings({"path": "consent.csv", "customer": "id", "expires_at": "until"})


def test_times_without_a_zone_are_read_in_the_zone_of_the_settings(tmp_path: Path) -> None:
    lines = HEADER + "a,yes,churn,2025-01-01 19:00:00,2025-01-01 21:00:00,\n"
    zone = {"time_zone": "Asia/Shanghai"}  # 11:00 to 13:00 UTC
    with opened(tmp_path, lines, **zone) as source:
        assert admitted(source) == "a"
        rows = list(source.consent_rows() or ())
    at = (datetime(2025, 1, 1, 11, tzinfo=UTC), datetime(2025, 1, 1, 13, tzinfo=UTC))
    assert rows == [ConsentRow("a", "churn", True, *at, None)]
    with opened(tmp_path, lines) as source:
        assert admitted(source) == ""
    with pytest.raises(ValidationError, match="IANA"):
        settings(MAPPED | {"time_zone": "Shanghai"})


def test_times_with_a_zone_are_what_they_say(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "since": pa.array([NOW, NOW.replace(hour=13)], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, tmp_path / "consent.parquet")
    left_out = dict.fromkeys(("granted", "purpose", "expires_at", "withdrawn_at"))
    mapped = {"path": "consent.parquet", "time_zone": "Asia/Shanghai"}
    with opened(tmp_path, "", **left_out, **mapped) as source:
        assert admitted(source) == "a"


@pytest.mark.parametrize("time_zone", ["UTC", "Asia/Shanghai", "America/New_York"])
@pytest.mark.parametrize(
    ("text", "date_format"),
    [
        *(("2025-01-01 20:00:00+08:00", ""), ("2025-01-01T20:00+0800", "")),
        *(("2025-01-01 20:00:00.000 +08", ""), ("2025-01-01T12:00:00Z", "")),
        *(("2025-01-01 12:00:00 UTC", ""), ("2025-01-01 12:00:00 Z", "")),
        *(("2025-01-01 06:30:00-05:30", ""), ("2025-01-01 20:00:00 Asia/Shanghai", "")),
        ("01.01.2025 20:00 +0800", "%d.%m.%Y %H:%M %z"),
        ("01.01.2025 20:00 Asia/Shanghai", "%d.%m.%Y %H:%M %Z"),
    ],
)
def test_a_zone_in_the_text_is_what_it_says(
    text: str, date_format: str, time_zone: str, tmp_path: Path
) -> None:
    lines = HEADER + f"a,yes,churn,2024-01-01 00:00:00Z,,{text}\n"
    if date_format:
        lines = HEADER + f"a,yes,churn,{text.replace('2025', '2024')},,{text}\n"
    zone = {"time_zone": time_zone, "date_format": date_format}
    for minutes, wanted in ((-1, "a"), (0, "")):  # withdrawn at NOW
        with opened(tmp_path, lines, now=NOW + timedelta(minutes=minutes), **zone) as source:
            assert admitted(source) == wanted


@pytest.mark.parametrize(
    ("date_format", "time_zone", "wanted"),
    [
        ("%Y-%m-%d %H:%M:%S+08:00", "UTC", "read with %z"),
        ("%Y-%m-%dT%H:%M:%SZ", "Asia/Shanghai", "leave time_zone out"),
    ],
)
def test_a_format_that_contradicts_the_zone_is_refused(
    date_format: str, time_zone: str, wanted: str
) -> None:
    with pytest.raises(ValidationError, match=wanted):
        settings(MAPPED | {"date_format": date_format, "time_zone": time_zone})


def test_purposes_are_compared_in_any_case(tmp_path: Path) -> None:
    lines = "a,yes,*,2024-01-01,,\na,no,Churn,2024-01-01,,\nb,yes,CHURN,2024-01-01,,\n"
    with opened(tmp_path, HEADER + lines) as source:
        assert admitted(source) == "b"
        rows = {(row.customer, row.purpose): row.granted for row in source.consent_rows() or ()}
    assert rows == {("a", "*"): True, ("a", "churn"): False, ("b", "churn"): True}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ("secret-4711,yes,churn,,,", "a time that is missing or is no date"),
        ("secret-4711,yes,churn,soon,,", "a time that is missing or is no date"),
        ("secret-4711,yes,churn,2024-01-01,2024-02-30,", "a time that is missing or is no date"),
        ("secret-4711,no,churn,2024-01-01,,x", "a time that is missing or is no date"),
        ("secret-4711,yes,churn,infinity,,", "a time that is missing or is no date"),
        ("secret-4711,yes,churn,2024-01-01,-infinity,", "a time that is missing or is no date"),
        ("secret-4711,no,churn,2024-01-01,,2024-05-01 10:00:00 PM", "a time that is missing"),
        ("secret-4711,no,churn,2024-01-01,,2024-05-01 10:00:00+99", "a time that is missing"),
        ("secret-4711,yes,,2024-01-01,,", "column 'why' of the consent table is empty"),
        ("secret-4711,no,all,2024-01-01,,\nb,no,e-mail & post,2024-01-01,,", "names no purpose"),
        ("secret-4711,no,**,2024-01-01,,", "names no purpose"),
        ("secret-4711,perhaps,churn,2024-01-01,,", "a word that is not known"),
        ("secret-4711,yes,churn", "cannot be told for sure"),
    ],
)
def test_one_unclear_row_refuses_them_all_and_nothing_of_it_is_shown(
    row: str, wanted: str, tmp_path: Path
) -> None:
    with opened(tmp_path, HEADER + "a,yes,churn,2024-01-01,,\n" + row + "\n") as source:
        for ask in (lambda: source.scoring_examples(plan(), "bank"), source.consent_rows):
            with pytest.raises(DataError, match=wanted) as raised:
                ask()
            assert "4711" not in str(raised.value)
        (tmp_path / "consent.csv").write_text(HEADER + "a,yes,churn,2024-01-01,infinity,\n")
        assert admitted(source) == "a"


def test_a_mapping_to_a_column_that_is_missing_names_it(tmp_path: Path) -> None:
    with (
        opened(tmp_path, "id,ok\na,yes\n") as source,
        pytest.raises(DataError, match=r"column 'why' \(for purpose\) .* source\.consent"),
    ):
        source.consent_rows()


def test_an_empty_consent_table_admits_nobody_and_a_missing_one_is_an_error(
    tmp_path: Path,
) -> None:
    with opened(tmp_path, HEADER) as source:
        assert admitted(source) == ""
        assert list(source.consent_rows() or ()) == []
        (tmp_path / "consent.csv").unlink()
        with pytest.raises(ConfigError, match=r"consent\.csv does not exist"):
            source.scoring_examples(plan(), "bank")


def test_consent_rows_are_one_for_each_customer_and_purpose(tmp_path: Path) -> None:
    lines = (
        "a,yes,churn,2024-01-01,,\na,no,churn,2024-02-01,,\n"
        "b,yes,*,2024-01-01,2026-01-01,\nb,yes,offers,2023-01-01,,2024-09-01\n"
    )
    with opened(tmp_path, HEADER + lines) as source:
        rows = sorted(source.consent_rows() or (), key=lambda row: (row.customer, row.purpose))
    first, later = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
    until = datetime(2026, 1, 1, tzinfo=UTC)
    assert rows == [
        ConsentRow("a", "churn", False, later, None, None),
        ConsentRow("b", "*", True, first, until, None),
        ConsentRow("b", "offers", True, first, until, None),
    ]


def test_asserted_consent_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,at,sum\na,2024-06-01,1\n")
    asserted = settings({"path": "x", "customer": "id", "granted": "ok"}).model_copy(
        update={"consent": None}
    )
    with open_source(asserted, tmp_path, today=date(2025, 1, 1)) as source:
        assert source.consent_rows() is None
        assert admitted(source) == "a"


def test_who_opted_out_is_neither_trained_on_nor_scored_nor_shown_for_a_purpose(
    tmp_path: Path,
) -> None:
    lines = HEADER + "".join(f"{who},yes,*,2024-01-01,,\n" for who in "abc")
    out: list[str] = ["b"]
    with opened(tmp_path, lines) as source:
        source._opted_out = lambda: out
        assert admitted(source) == "ac"
        report = source.check()
        assert (report.customers, report.consented) == (8, 2)
        seen = source.inspect(
            lambda connection, view: connection.execute(
                f"SELECT customer FROM {view.events} ORDER BY 1"
            ).fetchall(),
            purpose="churn",
        )
        assert seen == [("a",), ("c",)]
        out.clear()
        assert admitted(source) == "abc"
