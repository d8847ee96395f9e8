"""Event logs: every format a party may bring, every reason for which a row is set aside."""

from __future__ import annotations

import csv
import os
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from models.plan import Plan, parse_plan
from party_client.readers import Relation, read_files
from party_client.source_settings import SourceSettings
from party_client.sources import Source, SourceReport, open_source
from privacy.errors import ConfigError, DataError, PlanError

TODAY = date(2025, 1, 1)
COLUMNS = {"customer": "who", "time": "at", "amount": "sum"}


def plan(kind: str = "propensity", cutoff: str = "2024-07-01", horizon: int = 30) -> Plan:
    return parse_plan(
        f'format = 1\nname = "p"\npurpose = "x"\nprivacy = {{ epsilon = 1.0 }}\n'
        f'task = {{ kind = "{kind}", horizon_days = {horizon}, cutoff = {cutoff} }}\n'.encode()
    )


def settings(**changes: Any) -> SourceSettings:
    return SourceSettings.model_validate({"path": "log.csv", "columns": COLUMNS} | changes)


def opened(home: Path, content: str | bytes, **changes: Any) -> Source:
    raw = content.encode() if isinstance(content, str) else content
    (home / "log.csv").write_bytes(raw)
    return open_source(settings(**changes), home, today=TODAY)


def report(home: Path, content: str | bytes, **changes: Any) -> SourceReport:
    with opened(home, content, **changes) as source:
        return source.check()


GOOD = "who,at,sum\na,2024-06-01,1.50\nb,2024-06-02 10:00:00,2\na,2024-07-05,3\n"


def test_a_plain_csv_gives_training_and_scoring_rows(tmp_path: Path) -> None:
    with opened(tmp_path, GOOD) as source:
        training = source.training_examples(plan(), "bank")
        scoring = source.scoring_examples(plan(), "bank")
    assert training.customer_ids == ["a", "b"]
    assert training.labels is not None
    assert training.labels.tolist() == [1.0, 0.0]
    assert scoring.labels is None
    assert scoring.customer_ids == ["a", "b"]
    assert training.features.shape == (2, 24)
    assert (training.customers, training.consented) == (2, 2)


def test_every_bad_row_is_counted_under_its_reason_and_written_aside(tmp_path: Path) -> None:
    bad = (
        ",2024-06-01,1\n"  # missing customer
        "a,,1\n"  # missing time
        "a,2024-02-30,1\n"  # impossible
        "a,1854-02-03,1\n"  # impossible: before any log
        "a,2025-01-02,1\n"  # after today
        "a,2024-06-01,\n"  # missing amount
        "a,2024-06-01,cheap\n"  # unparsable
        "a,2024-06-01,inf\n"
        "a,2024-06-01,1e300\n"
        "b,2024-06-02 10:00:00,2\n"  # the same line again
        "a,2024-06-01\n"  # too few fields
        "a,2024-06-01,1,2\n"  # too many
    )
    found = report(tmp_path, GOOD + bad)
    assert found.rejected == {
        "malformed_row": 2,
        "missing_customer": 1,
        "missing_time": 1,
        "impossible_time": 2,
        "future_time": 1,
        "missing_amount": 1,
        "unparsable_amount": 3,
        "duplicate_row": 1,
    }
    assert found.rows_read == 3 + 12
    assert found.rejected_file == tmp_path / "rejected" / "rejected.csv"
    assert found.rejected_file.stat().st_mode & 0o777 == 0o600
    assert found.rejected_file.parent.stat().st_mode & 0o777 == 0o700
    with found.rejected_file.open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 12
    assert {"2024-02-30", "1854-02-03"} == {
        row["time"] for row in written if row["reason"] == "impossible_time"
    }
    assert {"cheap", "inf", "1e300"} == {
        row["amount"] for row in written if row["reason"] == "unparsable_amount"
    }


def test_values_outside_their_public_range_are_counted_for_the_operator(tmp_path: Path) -> None:
    # Each bought for more in 30 days than spend_30 allows; only b's money is within spend_365.
    log = "who,at,sum\na,2024-06-01,60000\nb,2024-06-02,6000\na,2024-07-05,3\n"
    with opened(tmp_path, log) as source:
        found = source.check()
        asked = source.check(plan(), "bank")
        training = source.training_examples(plan(), "bank")
    assert found.eligible == asked.eligible == 2
    assert found.clamped == {"spend_90": 1, "spend_365": 1, "spend_per_day_365": 2}
    per_plan = {"spend_30": 2, "spend_90": 1, "spend_365": 1, "spend_per_day_365": 2}
    assert asked.clamped == training.clamped == per_plan


def test_a_feature_table_has_public_ranges_only_with_a_plan(tmp_path: Path) -> None:
    asked = parse_plan(
        b"""
format = 1
name = "p"
purpose = "x"
task = { kind = "label", label = "left" }
privacy = { epsilon = 1.0 }
features = { columns = [{ name = "age", low = 18, high = 99 }] }
"""
    )
    table = "who,age,left\na,17,0\nb,inf,1\nc,99,0\nd,,1\ne,old,1\n"
    with opened(tmp_path, table, kind="table", columns={"customer": "who"}) as source:
        assert (source.check().eligible, source.check().clamped) == (None, None)
        found = source.check(asked, "bank")
    assert (found.eligible, found.clamped) == (4, {"age": 2})
    assert found.rejected == {"unparsable_number": 1}


def test_today_still_counts_and_tomorrow_lies_in_the_future(tmp_path: Path) -> None:
    found = report(tmp_path, GOOD + "a,2025-01-01 23:59:59,1\na,2025-01-02 00:00:00,1\n")
    assert found.rejected == {"future_time": 1}
    assert found.last_day == TODAY


def test_an_unclosed_quote_is_set_aside_and_counted(tmp_path: Path) -> None:
    found = report(tmp_path, GOOD + '"a,2024-06-01,1\n')
    assert found.rejected == {"malformed_row": 1}
    assert found.customers == 2


@pytest.mark.parametrize(
    "junk",
    [
        b'z,2024-06-01,1,"open',
        b'"z,2024-06-01,1,x',
        b'z,2024-06-01,1,shut"',
        b'z,2024-06-01,1,12" pipe',
        b'z,2024-06-01,1, "blank before"',
        b'z,2024-06-01,1,"blank after" ',
        b'z,2024-06-01,1,"odd""',
        b"z,2024-06-01,1,return\rz",
        b"z,2024-06-01",
        b"z,2024-06-01,1," + b"x" * 500_000,
        b"z,2024-06-01,1," + b"x" * 40_000_000,
    ],
)
@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_broken_line_is_set_aside_and_every_other_is_read(
    junk: bytes, place: int, end: bytes, tmp_path: Path
) -> None:
    rows = [b"%c,2024-06-01,1,%b" % (who, note) for who, note in zip(b"abcd", NOTES, strict=True)]
    lines = [b"who,at,sum,cat", *rows[:place], junk, *rows[place:]]
    columns = COLUMNS | {"category": "cat"}
    with opened(tmp_path, end.join(lines) + end, columns=columns) as source:
        rejected = source.check().rejected
        found = source._db.execute("SELECT customer, category FROM events").fetchall()
    kept = [("a", "dry, food"), ("b", 'the "best"'), ("c", None), ("d", "plain\u2028x")]
    assert sorted(row for row in found if row[0] != "z") == kept
    assert rejected.keys() == {"malformed_row"}


NOTES = (b'"dry, food"', b'"the ""best"""', b'""', "plain\u2028x".encode())


def test_a_line_set_aside_is_kept_for_the_operator(tmp_path: Path) -> None:
    content = GOOD + 'c,2024-06-01,"1\nd,2024-06-01,"é""\n'
    found = report(tmp_path, content)
    assert found.rejected == {"malformed_row": 2}
    assert found.rows_read == 5
    assert found.rejected_file is not None
    with found.rejected_file.open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["file"], row["line"]) for row in written] == [
        ("log.csv", 'c,2024-06-01,"1'),
        ("log.csv", 'd,2024-06-01,"é""'),
    ]


def test_another_quote_character_or_none_is_kept_to(tmp_path: Path) -> None:
    content = "who;at;sum;cat\na;2024-06-01;1;'x;''y'\nb;2024-06-01;1;5\"\nc;2024-06-01;1;it's\n"
    columns = COLUMNS | {"category": "cat"}
    with opened(tmp_path, content, delimiter=";", quote="'", columns=columns) as source:
        assert source.check().rejected == {"malformed_row": 1}
        found = source._db.execute("SELECT category FROM events ORDER BY customer").fetchall()
    assert found == [("x;'y",), ('5"',)]
    plain = content.replace("'x;''y'", '"x')
    with opened(tmp_path, plain, delimiter=";", quote="", columns=columns) as source:
        assert source.check().rejected == {}
        found = source._db.execute("SELECT category FROM events ORDER BY customer").fetchall()
    assert found == [('"x',), ('5"',), ("it's",)]


def test_blank_separated_text_survives_any_character(tmp_path: Path) -> None:
    content = 'who at sum\na 2024-06-01 1\nb 2024-06-01 1\x1f2 "\nc 2024-06-01 1\n'
    found = report(tmp_path, content, delimiter="space")
    assert found.rejected == {"malformed_row": 1}
    assert found.customers == 2


def test_without_a_header_the_first_line_does_not_decide_how_the_others_are_read(
    tmp_path: Path,
) -> None:
    by_position = {"customer": "#1", "time": "#2", "amount": "#3"}
    for junk in ("z,2024-06-01,1,9\n", "z\n", '"z\n', "z" * 600_000 + "\n"):
        content = junk + "a,2024-06-01,1\nb,2024-06-01,1\n"
        found = report(tmp_path, content, has_header=False, fields=3, columns=by_position)
        assert found.rejected == {"malformed_row": 1}
        assert found.customers == 2


def test_blank_lines_may_stand_before_the_header(tmp_path: Path) -> None:
    assert report(tmp_path, "\n\n" + GOOD).rejected == {}
    assert report(tmp_path, "\r\n\n" + GOOD + 'c,"\n').rejected == {"malformed_row": 1}


def test_equal_rows_stay_where_the_settings_say_so(tmp_path: Path) -> None:
    twice = GOOD + "b,2024-06-02 10:00:00,2\n"
    assert report(tmp_path, twice).rejected == {"duplicate_row": 1}
    assert report(tmp_path, twice, duplicates="keep").rejected == {}


def test_rows_that_differ_in_an_unmapped_column_are_not_duplicates(tmp_path: Path) -> None:
    content = "who,at,sum,item\na,2024-06-01,1,pen\na,2024-06-01,1,ink\n"
    assert report(tmp_path, content).rejected == {}


def test_lines_in_mixed_encodings_are_each_read_by_the_first_that_fits(tmp_path: Path) -> None:
    content = (
        b"who,at,sum,cat\n"
        + "é1,2024-06-01,1,crème\n".encode()
        + "é1,2024-06-02,1,crème\n".encode("latin-1")
    )
    columns = COLUMNS | {"category": "cat"}
    with opened(tmp_path, content, encoding=["utf-8", "latin-1"], columns=columns) as source:
        assert source.check().rejected == {}
        assert source.scoring_examples(plan(), "bank").customer_ids == ["é1"]


@pytest.mark.parametrize("other", ["", "b,2024-06-01,1,caf\xff\n"])
def test_the_first_encoding_is_tried_first_whatever_the_other_lines_hold(
    other: str, tmp_path: Path
) -> None:
    content = "who,at,sum,cat\na,2024-06-01,1,café\n".encode() + other.encode("latin-1")
    columns = COLUMNS | {"category": "cat"}
    with opened(tmp_path, content, encoding=["ascii", "latin-1"], columns=columns) as source:
        source.check()
        found = source._db.execute("SELECT category FROM events WHERE customer = 'a'").fetchall()
    assert found == [("cafÃ©",)]


def test_gbk_with_its_own_header_delimiter_decimal_comma_and_dates(tmp_path: Path) -> None:
    content = "会员;时间;金额\r\n张;05.06.2024 10:30:00;1.234,50\r\n李;06.06.2024 10:30:00;2\r\n"
    with opened(
        tmp_path,
        content.encode("gbk"),
        encoding="gbk",
        delimiter=";",
        decimal=",",
        date_format="%d.%m.%Y %H:%M:%S",
        currency_rate=2.0,
        columns={"customer": "会员", "time": "时间", "amount": "金额"},
    ) as source:
        assert source.check().rejected == {}
        amounts = source._db.execute("SELECT amount_cents FROM events ORDER BY ALL").fetchall()
    assert amounts == [(400,), (246_900,)]


def test_text_that_fits_no_encoding_is_set_aside_unless_only_a_category_is_hurt(
    tmp_path: Path,
) -> None:
    content = b"who,at,sum,cat\n\xff\xfe,2024-06-01,1,x\na,2024-06-01,1,\xff\n"
    found = report(tmp_path, content, columns=COLUMNS | {"category": "cat"})
    assert found.rejected == {"undecodable_text": 1}
    assert found.customers == 1


def test_utf_16_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    assert report(tmp_path, GOOD.encode("utf-16"), encoding="utf-16").customers == 2
    assert report(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()).customers == 2


def test_blank_separated_text_is_mapped_by_header_or_by_position(tmp_path: Path) -> None:
    lines = " 00001 19970101  1   11.77\r\n 00002 19970230  1   12.00\r\n 00002 19970112 77.00\r\n"
    by_position = {"customer": "#1", "time": "#2", "amount": "#4"}
    common: dict[str, Any] = {"delimiter": "space", "date_format": "%Y%m%d"}
    found = report(tmp_path, lines, has_header=False, fields=4, columns=by_position, **common)
    assert found.rejected == {"malformed_row": 1, "impossible_time": 1}
    assert found.first_day == date(1997, 1, 1)
    by_name = {"customer": "id", "time": "date", "amount": "sum"}
    header = " id  date  n  sum\r\n"
    assert report(tmp_path, header + lines, columns=by_name, **common) == found.__class__(
        **(found.__dict__ | {"columns_found": by_name})
    )


def test_parquet_types_are_used_as_they_are(tmp_path: Path) -> None:
    table = pa.table(
        {
            "who": pa.array([13085.0, None, 13086.0]),
            "at": pa.array([date(2024, 6, 1), date(2024, 6, 1), date(2024, 6, 2)]),
            "sum": pa.array([2.5, 1.0, 4.0]),
            "n": pa.array([2, 1, -3]),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    mapped = settings(path="log.parquet", columns=COLUMNS | {"quantity": "n"})
    with open_source(mapped, tmp_path, today=TODAY) as source:
        assert source.check().rejected == {"missing_customer": 1}
        events = source._db.execute(
            "SELECT customer, amount_cents FROM events ORDER BY 1"
        ).fetchall()
    assert events == [("13085", 500), ("13086", -1200)]


def test_a_glob_reads_all_files_and_a_cut_leaves_out_the_days_they_share(tmp_path: Path) -> None:
    (tmp_path / "log-1.csv").write_text("who,at,sum\na,2024-06-01,1\na,2024-06-20,1\n")
    (tmp_path / "log-2.csv").write_text("who,at,sum\nb,2024-06-20,1\n")
    with open_source(settings(path="log-*.csv"), tmp_path, today=TODAY) as source:
        assert source.check().rows_read == 3
    cut = settings(path=[{"path": "log-1.csv", "before": "2024-06-10"}, "log-2.csv"])
    with open_source(cut, tmp_path, today=TODAY) as source:
        found = source.check()
    assert found.rejected == {"outside_file_dates": 1}
    assert found.rows_read == 3


def test_a_folder_of_parquet_is_read_with_the_columns_that_its_folders_name(
    tmp_path: Path,
) -> None:
    def write(place: str, who: list[str], **more: list[Any]) -> None:
        target = tmp_path / "sales" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        many = len(who)
        days = [date(2024, 6, 1)] * many
        pq.write_table(pa.table({"who": who, "at": days, "sum": [1.0] * many} | more), target)

    write("year=2024/shop=N%201/part-0.parquet", ["a", "b"])
    write("year=2024/shop=__HIVE_DEFAULT_PARTITION__/part-0.parquet", ["c"])
    write("year=2024/shop=02/deep/part-0.pq", ["d"], note=["x"])
    write("year=2024/shop=02/own.parquet", ["e"], shop=["own"])
    write("_temporary/part-0.parquet", ["z"])
    write("year=2024/.hidden.parquet", ["z"])
    (tmp_path / "sales" / "_SUCCESS").write_text("")
    mapped = settings(path="sales", columns=COLUMNS | {"channel": "shop", "category": "year"})
    with open_source(mapped, tmp_path, today=TODAY) as source:
        assert source.check().rejected == {}
        found = source._db.execute("SELECT customer, category, channel FROM events ORDER BY 1")
        assert found.fetchall() == [
            ("a", "2024", "N 1"),
            ("b", "2024", "N 1"),
            ("c", "2024", None),
            ("d", "2024", "02"),
            ("e", "2024", "own"),
        ]
        before = source.schema_digest()
        write("year=2025/shop=02/part-0.parquet", ["f"])
        assert source.schema_digest() == before
        assert source.check().customers == 6
    (tmp_path / "empty").mkdir()
    with (
        open_source(settings(path="empty"), tmp_path) as source,
        pytest.raises(ConfigError, match="a folder must hold Parquet files"),
    ):
        source.check()


def test_a_schema_digest_needs_a_header_only_and_changes_with_form_and_mapping(
    tmp_path: Path,
) -> None:
    with opened(tmp_path, GOOD) as source:
        first = source.schema_digest()
        (tmp_path / "log.csv").write_text("who,at,sum\nz,never,x\n")
        assert source.schema_digest() == first
        (tmp_path / "log.csv").write_text("\n\nwho,at,sum,note\n")
        assert source.schema_digest() != first
        (tmp_path / "log.csv").write_text('"who,at,sum\n')
        with pytest.raises(DataError, match="the header of source file"):
            source.schema_digest()
        (tmp_path / "log.csv").write_text("\n")
        with pytest.raises(DataError, match="is empty"):
            source.schema_digest()
    for changes in ({"columns": COLUMNS | {"type": "sum"}}, {"customer_ids": "email"}):
        with opened(tmp_path, GOOD, **changes) as source:
            assert source.schema_digest() != first


def test_an_id_of_more_than_255_characters_is_set_aside(tmp_path: Path) -> None:
    long = GOOD + f"{'x' * 256},2024-06-01,1\n{'y' * 255},2024-06-01,1\n"
    found = report(tmp_path, long)
    assert found.rejected == {"unusable_customer_id": 1}
    assert found.customers == 3


def test_own_words_for_a_return_are_returns(tmp_path: Path) -> None:
    content = "who,at,sum,kind\na,2024-06-01,1,sale\nb,2024-06-01,1,Storno\nb,2024-06-02,1,sale\n"
    columns = COLUMNS | {"type": "kind"}
    with opened(tmp_path, content, columns=columns, return_types=["storno"]) as source:
        source.check()
        types = source._db.execute("SELECT customer, type FROM events ORDER BY ALL").fetchall()
    assert types == [("a", "sale"), ("b", "return"), ("b", "sale")]


CONSENT = {"path": "consent.csv", "customer": "id", "granted": "ok"}


def test_customers_without_consent_are_neither_trained_on_nor_scored(tmp_path: Path) -> None:
    (tmp_path / "consent.csv").write_text("id,ok\na,yes\nb,no\nd,yes\nd,no\n")
    content = GOOD + "c,2024-06-03,1\nd,2024-06-03,1\n"  # c is not named; d said yes and no
    with opened(tmp_path, content, consent=CONSENT) as source:
        found = source.check()
        scored = source.scoring_examples(plan(), "bank")
        with pytest.raises(DataError, match="one class"):
            source.training_examples(plan(), "bank")
    assert (found.customers, found.consented, found.consent_asserted) == (4, 1, False)
    assert scored.customer_ids == ["a"]
    assert scored.consented == 1


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ('b,yes,"open\nb,no,x"', "columns 'id', 'ok' cannot be told for sure"),
        ("b,no,moved, by mail", "columns 'id', 'ok' cannot be told for sure"),
        ("secret-1234", "columns 'id', 'ok' cannot be told for sure"),
        (",no,", "column 'id' of the consent table is empty"),
        ("secret-\xff,no,", "column 'id' of the consent table is empty or cannot be decoded"),
        ("secret-1234,nope,", r"column 'ok' .* use 1, true, .* and 0, false, f, no, .* for a no"),
        ("secret-1234,yes\xff,", "column 'ok' of the consent table has a word that is not known"),
    ],
)
def test_a_consent_file_with_one_unclear_row_is_refused_whole(
    row: str, wanted: str, tmp_path: Path
) -> None:
    lines = f"id,ok,note\na,yes,\nb,yes,\n{row}\n"
    (tmp_path / "consent.csv").write_bytes(lines.encode("latin-1"))
    with opened(tmp_path, GOOD, consent=CONSENT) as source:
        for _ in range(2):
            with pytest.raises(DataError, match=wanted) as raised:
                source.consent_rows()
            assert "secret" not in str(raised.value)
        (tmp_path / "consent.csv").write_text("id,ok,note\na,yes,\nb,yes,\nb,,gone\n")
        assert consenting(source) == {"a"}
        assert source.check().rejected == {}


def consenting(source: Source) -> set[str]:
    rows = source.consent_rows()
    assert rows is not None
    return {row.customer for row in rows if row.granted}


def test_words_of_a_consent_file_are_read_in_any_case(tmp_path: Path) -> None:
    words = ["1", "TRUE", " t ", "Yes", "y", "On", "0", "False", "F", "No", "n", "OFF", ""]
    lines = "".join(f"c{number},{word}\n" for number, word in enumerate(words))
    (tmp_path / "consent.csv").write_text("id,ok\n" + lines)
    with opened(tmp_path, GOOD, consent=CONSENT) as source:
        consented = consenting(source)
    assert consented == {f"c{number}" for number in range(6)}


def test_what_is_spilled_or_rewritten_is_closed_to_other_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: dict[str, int] = {}

    def looked_at(*arguments: Any) -> Relation:
        for path in [tmp_path / name for name in os.listdir(tmp_path) if name[0] == "."]:
            modes[path.name.split("-")[0]] = path.stat().st_mode & 0o777
        return read_files(*arguments)

    monkeypatch.setattr("party_client.loading.read_files", looked_at)
    before = os.umask(0)
    try:
        report(tmp_path, GOOD)
    finally:
        os.umask(before)
    assert modes == {".spill": 0o700, ".source": 0o700}


def test_without_a_consent_file_the_report_says_that_consent_is_asserted(tmp_path: Path) -> None:
    assert report(tmp_path, GOOD).consent_asserted


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    with opened(tmp_path, GOOD) as source:
        assert source.check().customers == 2
        (tmp_path / "log.csv").write_text(GOOD + "c,2024-06-03,1\n")
        assert source.check().customers == 3


def test_closing_leaves_nothing_but_the_rejected_rows_behind(tmp_path: Path) -> None:
    with opened(tmp_path, "who,at,sum\na,2024-06-01,x\nb,2024-06-01,1\n", encoding="gbk") as source:
        source.check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "rejected"]


@pytest.mark.parametrize(
    ("content", "changes", "wanted"),
    [
        ("", {}, "is empty"),
        ("who,at,sum\n", {}, "is empty"),
        ("who,at,sum\na,never,1\n", {}, "no row of the event log is usable"),
        (GOOD, {"columns": COLUMNS | {"amount": "price"}}, r"'price' \(for amount\)"),
        ("who,who,sum\na,2024-06-01,1\n", {}, "repeated column name"),
        (GOOD, {"consent": CONSENT | {"granted": "flag"}}, "'flag'"),
        (GOOD, {"date_format": "%Q"}, "cannot be read"),
        ('"who,at,sum\n' + GOOD, {}, "the header of source file log.csv cannot be read"),
        ("who" * 100_000 + ",at,sum\na,2024-06-01,1\n", {}, "the header of source file"),
    ],
)
def test_an_unusable_log_is_a_data_error(
    content: str, changes: dict[str, Any], wanted: str, tmp_path: Path
) -> None:
    (tmp_path / "consent.csv").write_text("id,ok\na,yes\n")
    with pytest.raises(DataError, match=wanted):
        report(tmp_path, content, **changes)


def test_a_missing_file_and_a_broken_parquet_say_what_to_do(tmp_path: Path) -> None:
    with (
        open_source(settings(path="no.csv"), tmp_path, today=TODAY) as source,
        pytest.raises(ConfigError, match=r"no\.csv does not exist: check source\.path"),
    ):
        source.check()
    (tmp_path / "log.parquet").write_bytes(b"customer-4711 is not parquet")
    with (
        open_source(settings(path="log.parquet"), tmp_path, today=TODAY) as source,
        pytest.raises(DataError, match="cannot be read") as raised,
    ):
        source.check()
    assert "4711" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_labels_of_one_class_or_nobody_eligible_are_data_errors(tmp_path: Path) -> None:
    with opened(tmp_path, GOOD) as source:
        with pytest.raises(DataError, match="one class"):
            source.training_examples(plan(cutoff="2024-06-25", horizon=2), "bank")
        with pytest.raises(DataError, match="no customer is eligible"):
            source.training_examples(plan(cutoff="2024-01-01"), "bank")
        with pytest.raises(PlanError, match="still to come"):
            source.training_examples(plan(cutoff="2024-12-20"), "bank")


def test_errors_hold_no_customer_and_no_count(tmp_path: Path) -> None:
    with opened(tmp_path, "who,at,sum\n" + "secret-1234,2024-06-01,1\n" * 77) as source:
        for action in (
            lambda: source.training_examples(plan(), "bank"),
            lambda: source.training_examples(plan(cutoff="2023-01-01"), "bank"),
        ):
            with pytest.raises(DataError) as raised:
                action()
            assert "secret" not in str(raised.value)
            assert "1234" not in str(raised.value)
            assert "77" not in str(raised.value)


def test_a_log_larger_than_the_memory_limit_spills_to_disk(tmp_path: Path) -> None:
    lines = ["who,at,sum,note"]
    lines += [
        f"c{number % 5000},2024-0{1 + number % 9}-1{number % 10} 0{number % 10}:00:00,{number},"
        f"{number:032x}"
        for number in range(150_000)
    ]
    content = "\n".join(lines) + "\n"
    with opened(tmp_path, content, memory_limit="25MB", threads=1) as source:
        assert source.check().customers == 5000
        found = source.scoring_examples(plan(), "bank")
        assert source._spill.is_dir()
        assert list(source._spill.iterdir())
    assert not source._spill.exists()
    with opened(tmp_path, content) as source:
        roomy = source.scoring_examples(plan(), "bank")
        assert not list(source._spill.iterdir())
    assert found.customer_ids == roomy.customer_ids
    assert (found.features == roomy.features).all()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"columns": {"customer": "who", "time": "at"}}, "amount must be mapped"),
        ({"columns": COLUMNS | {"colour": "c"}}, "an event log has no colour"),
        ({"encoding": "klingon"}, "not an encoding"),
        ({"encoding": ["utf-8", "utf-16"]}, "must stand alone"),
        ({"delimiter": "::"}, "one character"),
        ({"delimiter": ",", "decimal": ","}, "must differ"),
        ({"currency_rate": 0}, "greater than 0"),
        ({"colour": 1}, "Extra inputs"),
        ({"has_header": False}, "say how many fields"),
        ({"fields": 3}, "leave it out"),
        ({"path": []}, "at least one file"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ValidationError, match=wanted):
        settings(**changes)
