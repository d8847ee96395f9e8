"""SQL of every fact over the tables that local_facts.py makes; one entry a fact.

w: windows over purchase days. l: counts of purchases of the last 365 days (absent: none). p: all
events. g: gaps between purchase days. s: changes of channel. cat, ch: categories and channels.
base: the gaps of all customers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

WORDS = "local_words"
CODES = 1 << 24
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYPARTS = ("night", "morning", "afternoon", "evening")


def packed(first: str, second: str, code: str) -> str:
    """Three whole numbers in one that sorts by the first, then the second, then the code.

    Structs sort alike and take ten times as long. The second stays below 2^62, the code 2^24.
    """
    return f"(({first})::HUGEINT * {1 << 86} + ({second})::HUGEINT * {CODES} + {code})"


def code(packed_number: str) -> str:
    """The code of what `packed` made."""
    return f"({packed_number} % {CODES})::INTEGER"


def month_day(moment: str) -> str:
    """SQL: 1112 for the 12th of November."""
    return f"(month({moment}) * 100 + day({moment}))"


def big_sales(month_and_day: str) -> str:
    """SQL: the day is in one of the year's two big sales (618 and Double 11)."""
    return f"({month_and_day} BETWEEN 601 AND 620 OR {month_and_day} BETWEEN 1101 AND 1112)"


def _ratio(above: str, below: str) -> str:
    return f"{above} / nullif({below}, 0)::DOUBLE"


def _share(count: str) -> str:
    return _ratio(f"l.{count}", "l.bought")


def _timed(count: str) -> str:
    return _ratio(f"l.{count}", "l.timed")


def _largest(words: Sequence[str], counts: str) -> str:
    """The word of the largest count, the first of equals."""
    listed = ", ".join(f"'{word}'" for word in words)
    return f"[{listed}][list_position(l.{counts}, list_max(l.{counts}))]"


def _own(gap: str) -> str:
    return f"CASE WHEN g.n >= 3 THEN {gap} END"


def _moved(short: str) -> str:
    return f"({short}.recent <> {short}.earlier)::INTEGER"


def _word(number: str) -> str:
    return f"(SELECT word FROM {WORDS} WHERE code = {number})"


_WINDOW_FACTS = {
    "recency_days": "w.recency",
    "tenure_days": "w.tenure",
    "purchase_days_total": "w.days",
    "purchase_days_30": "w.days_30",
    "purchase_days_90": "w.days_90",
    "purchase_days_before_90": "w.days_before_90",
    "purchase_days_365": "w.days_365",
    "active_months_365": "coalesce(w.blocks, 0)",
    "spend_90": "w.spend_90",
    "spend_before_90": "w.spend_before_90",
    "spend_365": "w.spend_365",
    "spend_total": "w.spend",
    "basket_365": _ratio("w.spend_365", "w.days_365"),
    "biggest_basket_365": "w.biggest",
    "biggest_share_365": _ratio("w.biggest", "w.spend_365"),
    "frequency_change": _ratio("w.days_90", "w.days_before_90"),
    "spend_change": _ratio("w.spend_90", "w.spend_before_90"),
    "basket_change": _ratio(
        f"({_ratio('w.spend_90', 'w.days_90')})",
        f"({_ratio('w.spend_275', '(w.days_365 - w.days_90)')})",
    ),
    "year_change": _ratio("w.spend_365", "w.spend_before_365"),
    "gap_before_last": "g.last",
    "second_after_days": "g.first",
    "first_year": "CAST(year(p.first_day) AS VARCHAR)",
    "first_in_sale": f"{big_sales(month_day('p.first_day'))}::INTEGER",
    "returns_365": "coalesce(p.returns, 0)",
    "return_share_365": _ratio("p.returns", "(p.returns + coalesce(l.bought, 0))"),
}
_GAP_FACTS = {
    "gap_deviation": _own("sqrt(g.squares * g.n - g.total * g.total) / g.total"),
    "gap_median": _own("g.usual[1]"),
    "gap_usual": f"coalesce({_own('g.usual[2]')}, base.usual, 365)",
    "gap_long": f"coalesce({_own('g.usual[3]')}, base.long, 365)",
    "due_in_days": _own("g.usual[1] - w.recency"),
    "channel_switches": "CASE WHEN s.pairs >= 2 THEN s.switches / s.pairs::DOUBLE END",
}
_LINE_FACTS = {
    "purchases_365": "coalesce(l.bought, 0)",
    "lines_per_day_365": _ratio("l.bought", "w.days_365"),
    "timed_purchases_365": "coalesce(l.timed, 0)",
    "night_share": _timed("parts[1]"),
    "early_share": _timed("early"),
    "lunch_share": _timed("lunch"),
    "evening_share": _timed("parts[4]"),
    "top_daypart": f"CASE WHEN l.timed > 0 THEN {_largest(_DAYPARTS, 'parts')} END",
    "weekend_share": _share("weekend"),
    "top_weekday": _largest(_WEEKDAYS, "weekdays"),
    "payday_share": _share("payday"),
    "top_quarter": _largest(("q1", "q2", "q3", "q4"), "quarters"),
    "top_quarter_share": _ratio("list_max(l.quarters)", "l.bought"),
    "double_11_share": _share("double_11"),
    "mid_year_share": _share("mid_year"),
    "new_year_share": _share("new_year"),
    "golden_week_share": _share("golden_week"),
    "gift_share": _share("gift"),
    "december_share": _share("december"),
    "sale_share": _share("sale"),
    "low_price_share": _share("low_price"),
    "high_price_share": _share("high_price"),
}
_WORD_FACTS = {
    "categories_365": "nullif(cat.kinds, 0)",
    "top_category": _word("cat.first"),
    "second_category": _word(code("cat.top[2]")),
    "top_spend_category": _word("cat.dearest"),
    "top_category_share": _ratio("cat.most", "cat.lines"),
    "recent_category": _word("cat.recent"),
    "category_moved": _moved("cat"),
    "new_categories_90": "CASE WHEN w.tenure > 90 THEN coalesce(cat.new_90, 0) END",
    "first_category": _word("p.category"),
    "channels_365": "nullif(ch.kinds, 0)",
    "top_channel": _word("ch.first"),
    "top_channel_share": _ratio("ch.most", "ch.lines"),
    "channel_moved": _moved("ch"),
    "first_channel": _word("p.channel"),
}

FACT_COLUMNS: Mapping[str, str] = MappingProxyType(
    {**_WINDOW_FACTS, **_GAP_FACTS, **_LINE_FACTS, **_WORD_FACTS}
)
