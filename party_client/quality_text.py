"""Text that was written in one encoding and read in another, found by what that leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from party_client.quality_looking import Finding, Looking
from party_client.validation import Demand, count_failing, declared_rows

# Characters that UTF-8's second and later bytes become in Latin-1 and in Windows-1252.
_TAIL = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
GARBLED = "|".join(
    (
        f"[ÂÃ]{_TAIL}",  # a Latin letter with an accent
        f"[à-ï]{_TAIL}{_TAIL}",  # Chinese, and punctuation
        "\ufffd",  # a byte that fitted no encoding
        "锟斤拷|锟|锘|烫烫|屯屯",  # the same in Chinese encodings
    )
)


def garbled_findings(look: Looking, columns: Mapping[str, str]) -> Iterator[Finding]:
    """`columns`: name -> a query of that column's distinct values, as `value`."""
    if not look.asked("garbled_text"):
        return
    if not columns:
        yield Finding("garbled_text", None, note="no column of text", note_zh="没有文字列")
        return
    texts = " UNION ALL ".join(
        f"SELECT {number} AS place, value FROM ({sql}) WHERE value IS NOT NULL"
        for number, sql in enumerate(columns.values())
    )
    look.db.execute(f"CREATE OR REPLACE TEMP VIEW quality_texts AS {texts}")
    rows = declared_rows(look.db, "quality_texts", {"value": "text"})
    demands = [
        Demand(
            name,
            lambda t: ~t.value.re_search(GARBLED),
            lambda t, number=number: t.place == number,  # type: ignore[misc]
        )
        for number, name in enumerate(columns)
    ]
    counted = count_failing(rows, demands)
    where = ", ".join(name for name, count in counted.items() if count.failing)
    yield Finding(
        "garbled_text",
        sum(count.looked_at for count in counted.values()),
        sum(count.failing for count in counted.values()),
        f"in {where}" if where else "",
        f"位于 {where}" if where else "",
    )
