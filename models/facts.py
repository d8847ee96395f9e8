"""The facts that local tags are made of: what is known of one customer from the event log.

A fact speaks about the days before the day of the refresh. `party_client/local_facts.py` computes
them; a tag's rule names them. Facts and local tags may look across a party's own customers
(percentiles, a category's median): they stay inside that party and never train a model.

Words: a *purchase* is an event that is no return; a *purchase day* is a calendar day with a
purchase; a *basket* is what a customer buys on one purchase day. The last 365 days and the 90
before are meant where a description says so; "before" is always the time right before that window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Fact:
    """One fact; `unit` is for numbers. It is absent where `absent` says."""

    name: str
    kind: Literal["number", "text"]
    unit: str
    description: str
    absent: str = ""


def _number(name: str, unit: str, description: str, absent: str = "") -> Fact:
    return Fact(name, "number", unit, description, absent)


def _text(name: str, description: str, absent: str = "") -> Fact:
    return Fact(name, "text", "", description, absent)


_IDLE = "no purchase in that time"
_FEW_GAPS = "fewer than 3 gaps"
_NO_CLOCK = "no purchase with a time of day in that time"
_NO_CATEGORY = "no purchase with a category that may be used"
_NO_CHANNEL = "no purchase with a channel"

_ALL = (
    _number("recency_days", "days", "days since the last purchase"),
    _number("tenure_days", "days", "days since the first purchase on record"),
    _number("purchase_days_total", "days", "purchase days on record"),
    _number("purchase_days_30", "days", "purchase days, last 30 days"),
    _number("purchase_days_90", "days", "purchase days, last 90 days"),
    _number("purchase_days_before_90", "days", "purchase days, the 90 days before the last 90"),
    _number("purchase_days_365", "days", "purchase days, last 365 days"),
    _number("active_months_365", "30-day blocks", "blocks of 30 days with a purchase, of 13"),
    _number("purchases_365", "events", "purchases (lines), last 365 days"),
    _number("lines_per_day_365", "events", "purchases (lines) a purchase day, last 365 days",
            _IDLE),
    _number("spend_90", "currency", "amount bought, last 90 days"),
    _number("spend_before_90", "currency", "amount bought, the 90 days before the last 90"),
    _number("spend_365", "currency", "amount bought, last 365 days"),
    _number("spend_total", "currency", "amount bought, on record"),
    _number("basket_365", "currency", "amount bought a purchase day, last 365 days", _IDLE),
    _number("biggest_basket_365", "currency", "largest basket, last 365 days", _IDLE),
    _number("biggest_share_365", "share", "share of that basket in the spend", _IDLE),
    _number(
        "frequency_change",
        "ratio",
        "purchase days of the last 90 days / of the 90 days before",
        "no purchase in the 90 days before",
    ),
    _number(
        "spend_change",
        "ratio",
        "amount of the last 90 days / of the 90 days before",
        "nothing bought in the 90 days before",
    ),
    _number(
        "basket_change",
        "ratio",
        "mean basket of the last 90 days / of the 275 days before",
        "no purchase in one of the two",
    ),
    _number(
        "year_change",
        "ratio",
        "amount of the last 365 days / of the 365 days before",
        "nothing bought in the 365 days before",
    ),
    _number("gap_deviation", "ratio", "standard deviation of the gaps between purchase days / "
            "their mean, last 730 days", _FEW_GAPS),
    _number("gap_median", "days", "median gap between purchase days, last 730 days", _FEW_GAPS),
    _number("gap_usual", "days", "75th percentile of the customer's own gaps, last 730 days; with "
            "fewer than 3 of them that of all customers' gaps, or 365 without any"),
    _number("gap_long", "days", "90th percentile, likewise"),
    _number("gap_before_last", "days", "days between the last purchase day and the one before",
            "one purchase day only"),
    _number("second_after_days", "days", "days from the first purchase day to the second",
            "one purchase day only"),
    _number("due_in_days", "days", "median gap less days since the last purchase; negative: "
            "overdue", _FEW_GAPS),
    _number("timed_purchases_365", "events", "purchases with a time of day, last 365 days"),
    _number("night_share", "share", "of these, from 22:00 to 05:59", _NO_CLOCK),
    _number("early_share", "share", "of these, from 06:00 to 08:59", _NO_CLOCK),
    _number("lunch_share", "share", "of these, from 11:00 to 13:59", _NO_CLOCK),
    _number("evening_share", "share", "of these, from 18:00 to 21:59", _NO_CLOCK),
    _text("top_daypart", "part of the day with most of them: night (22 to 6), morning (6 to 12), "
          "afternoon (12 to 18), evening (18 to 22)", _NO_CLOCK),
    _number("weekend_share", "share", "purchases on Saturday or Sunday, last 365 days", _IDLE),
    _text("top_weekday", "weekday with most purchases, last 365 days", _IDLE),
    _number("payday_share", "share", "purchases from the 25th to the 5th, last 365 days", _IDLE),
    _text("top_quarter", "calendar quarter with most purchases, last 365 days: q1 to q4", _IDLE),
    _number("top_quarter_share", "share", "share of purchases in that quarter", _IDLE),
    _number("double_11_share", "share", "purchases from 1 to 12 November, last 365 days", _IDLE),
    _number("mid_year_share", "share", "purchases from 1 to 20 June, last 365 days", _IDLE),
    _number("new_year_share", "share", "purchases in the 21 days before Chinese New Year's Day, "
            "last 365 days", _IDLE),
    _number("golden_week_share", "share", "purchases from 1 to 7 October, last 365 days", _IDLE),
    _number("gift_share", "share", "purchases from 8 to 14 February, 5 to 20 May and in the week "
            "up to Qixi, last 365 days", _IDLE),
    _number("december_share", "share", "purchases in December, last 365 days", _IDLE),
    _number("sale_share", "share", "purchases in the two big sales (June, November), "
            "last 365 days", _IDLE),
    _number("first_in_sale", "0 or 1", "the first purchase on record fell in a big sale"),
    _text("first_year", "calendar year of the first purchase on record"),
    _number("returns_365", "events", "returns (lines), last 365 days"),
    _number("return_share_365", "share", "returns among returns and purchases, last 365 days",
            "neither in that time"),
    _number("categories_365", "categories", "categories bought, last 365 days", _NO_CATEGORY),
    _text("top_category", "category with most purchases, last 365 days", _NO_CATEGORY),
    _text("second_category", "category with second most", "fewer than two categories"),
    _text("top_spend_category", "category with the largest amount, last 365 days", _NO_CATEGORY),
    _number("top_category_share", "share", "share of the most bought category", _NO_CATEGORY),
    _text("recent_category", "category with most purchases, last 90 days", _NO_CATEGORY),
    _number("category_moved", "0 or 1", "that category differs from the one of the 275 days before",
            "no such purchase in one of the two"),
    _number("new_categories_90", "categories", "categories bought in the last 90 days and never "
            "before", "no purchase before the last 90 days"),
    _text("first_category", "category of the first purchase on record", _NO_CATEGORY),
    _number("channels_365", "channels", "channels used, last 365 days", _NO_CHANNEL),
    _text("top_channel", "channel with most purchases, last 365 days", _NO_CHANNEL),
    _number("top_channel_share", "share", "share of that channel", _NO_CHANNEL),
    _number("channel_moved", "0 or 1", "most used channel of the last 90 days differs from the one "
            "of the 275 days before", "no such purchase in one of the two"),
    _number("channel_switches", "share", "purchase days whose channel differs from that of the "
            "purchase day before, last 365 days", "fewer than 3 purchase days with a channel"),
    _text("first_channel", "channel of the first purchase on record", _NO_CHANNEL),
    _number("low_price_share", "share", "purchases below the median amount of their category, all "
            "customers, last 365 days", _IDLE),
    _number("high_price_share", "share", "purchases above the 80th percentile of their "
            "category, all customers, last 365 days", _IDLE),
)  # fmt: skip

FACTS: Mapping[str, Fact] = MappingProxyType({fact.name: fact for fact in _ALL})
