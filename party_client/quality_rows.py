"""Quality rules about single rows of an event log, and about customers. All of them only warn.

Three sigma are taken of logarithms: amounts and numbers of purchases are skewed, and three sigma of
the plain figures would call every good customer an outlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from models.catalogue import IS_RETURN
from models.tasks import text_literal
from party_client.quality_looking import FEW, REVIEWED, Finding, Looking
from party_client.validation import Counted, Demand, count_failing, declared_rows, failing_rows

CUSTOMERS = "quality_customers"
STAND_IN_DATES = (date(1900, 1, 1), date(1901, 1, 1), date(1970, 1, 1))
# Ids that stand for nobody, in lower case.
NOBODY = (
    *("-1", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "undefined", "unknown", "unk"),
    *("anonymous", "anonym", "guest", "test", "dummy", "default", "walk-in", "cash", "-", "."),
    *("未知", "匿名", "无", "空", "游客", "散客", "测试", "非会员"),
)
_REPEATED = "^(0+|9{4,}|[xX]{2,})$"  # nobody, too, where it is far busier than others
_HOUSE_SHARE = 0.01  # of all rows
_HOUSE_TIMES = 50  # the mean number of rows
_COMMON = 0.05  # share of customers from which a format is a common one
_FIXED = 0.95  # share of ids of one length from which the length is part of the format
# An id's form: digits as 9, letters as a, those mixed as x, other scripts as w, an e-mail as @.
_SHAPE = (
    "CASE WHEN contains(customer, '@') THEN '@' ELSE regexp_replace(regexp_replace("
    "regexp_replace(regexp_replace(customer, '[0-9]+', '9', 'g'), '[A-Za-z]+', 'a', 'g'), "
    "'[a9]{3,}', 'x', 'g'), '[^ -~]+', 'w', 'g') END"
)
_EVENTS = {
    "customer": "text",
    "time": "time",
    "cents": "integer",
    "refund": None,
    "magnitude": "number",
}


def row_findings(look: Looking) -> Iterator[Finding]:
    """Rules that look at each row: amounts, refunds, dates."""
    rules = ("zero_amounts", "whole_amounts", "amount_outliers", "placeholder_dates")
    if not look.asked(*rules, "clock_times", "refund_share"):
        return
    look.db.execute(
        "CREATE OR REPLACE TEMP VIEW quality_rows AS SELECT customer, time, amount_cents AS cents, "
        f"{IS_RETURN} AS refund, CASE WHEN amount_cents > 0 THEN ln(amount_cents) END AS magnitude "
        f"FROM {look.view.events}"
    )
    rows = declared_rows(
        look.db, "quality_rows", {name: kind for name, kind in _EVENTS.items() if kind}
    )
    purchases, mean, spread = look.one(
        "SELECT count(magnitude), avg(magnitude), stddev_samp(magnitude) FROM quality_rows "
        "WHERE NOT refund"
    )
    demands = [
        Demand("zero_amounts", lambda t: t.cents != 0),
        Demand("whole_amounts", lambda t: t.cents % 100 != 0, lambda t: t.cents != 0),
        Demand("placeholder_dates", lambda t: ~t.time.date().isin(STAND_IN_DATES)),
        Demand("clock_times", lambda t: t.time != t.time.truncate("D")),
        Demand("refund_share", lambda t: ~t.refund),
    ]
    outliers = Demand(
        "amount_outliers",
        lambda t: (t.magnitude - (mean or 0.0)).abs() <= 3 * (spread or 0.0) + 1e-9,
        lambda t: ~t.refund & (t.cents > 0),
    )
    if purchases >= FEW:
        demands.append(outliers)
    else:
        yield _too_few("amount_outliers", "purchases", "购买")
    counted = count_failing(rows, [one for one in demands if look.asked(one.rule)])
    for rule, count in counted.items():
        yield _row_finding(look, rule, count)
    if outliers.rule in counted and counted[outliers.rule].failing:
        distance = lambda t: (t.magnitude - mean).abs()  # noqa: E731
        for row in failing_rows(rows, outliers, distance, REVIEWED):
            look.review.add(outliers.rule, row["customer"], row["time"], row["cents"] / 100)


def _row_finding(look: Looking, rule: str, count: Counted) -> Finding:
    if rule == "clock_times" and count.failing == count.looked_at:
        return Finding(
            rule,
            None,
            note="the log holds dates only, so features of the hour are the same for all",
            note_zh="日志只有日期,因此与时刻有关的特征对所有客户都相同",
        )
    if rule == "whole_amounts" and count.looked_at < FEW:
        return _too_few(rule, "amounts", "金额")
    if rule == "amount_outliers" and count.failing:
        return Finding(rule, count.looked_at, count.failing, *reviewed(count.failing))
    return Finding(rule, count.looked_at, count.failing)


def customer_findings(look: Looking) -> Iterator[Finding]:
    """Rules that look at each customer: ids, refunds against purchases, number of rows."""
    refunds = ("refund_without_purchase", "refund_above_bought")
    names = ("customer_key_format", "placeholder_customers")
    busy = ("busy_customers", "house_accounts")
    if not look.asked(*refunds, *names, *busy):
        return
    look.db.execute(
        f"CREATE OR REPLACE TEMP TABLE {CUSTOMERS} AS SELECT customer, count(*) AS n, "
        f"ln(count(*)) AS magnitude, "
        f"coalesce(sum(abs(amount_cents)) FILTER ({IS_RETURN}), 0)::BIGINT AS refunded, "
        f"coalesce(sum(amount_cents) FILTER (NOT {IS_RETURN}), 0)::BIGINT AS bought, "
        f"min(time) FILTER (NOT {IS_RETURN}) AS first_purchase "
        f"FROM {look.view.events} GROUP BY customer"
    )
    if look.asked(*names):
        yield from key_findings(look)
    if look.asked(*busy):
        yield from _busy(look)
    if look.asked("refund_above_bought"):
        yield from _refunded(look)
    if look.asked("refund_without_purchase"):
        yield from _refund_first(look)


def key_findings(look: Looking) -> Iterator[Finding]:
    """Rules about ids; table `CUSTOMERS` (customer, n) must be there."""
    total, median = look.one(f"SELECT count(*), median(n) FROM {CUSTOMERS}")
    nobody = ", ".join(text_literal(word) for word in NOBODY)
    look.db.execute(
        "CREATE OR REPLACE TEMP TABLE quality_keys AS SELECT customer, n, "
        f"{_SHAPE} AS shape, length(customer) AS size, "
        f"lower(trim(customer)) IN ({nobody}) OR "
        f"(regexp_matches(trim(customer), '{_REPEATED}') AND n > 10 * {float(median or 0)!r}) "
        f"AS nobody FROM {CUSTOMERS}"
    )
    keys = declared_rows(look.db, "quality_keys", {"customer": "text", "n": "integer"})
    forms = look.all("SELECT shape, size, count(*) FROM quality_keys GROUP BY ALL")
    sizes: dict[int, int] = {}
    shapes: dict[str, int] = {}
    for shape, size, count in forms:
        sizes[size] = sizes.get(size, 0) + count
        shapes[shape] = shapes.get(shape, 0) + count
    common = [shape for shape, count in shapes.items() if count >= _COMMON * total]
    usual = [size for size, count in sizes.items() if count >= _FIXED * total]
    demands = [
        Demand(
            "customer_key_format",
            lambda t: t["shape"].isin(common) & (t["size"].isin(usual) if usual else True),
        ),
        Demand("placeholder_customers", lambda t: ~t.nobody),
    ]
    if total < FEW:
        yield _too_few(demands.pop(0).rule, "customers", "客户")
    elif not common:
        note, note_zh = "no form of id is common", "没有常见的标识格式"
        yield Finding(demands.pop(0).rule, None, note=note, note_zh=note_zh)
    for rule, count in count_failing(keys, demands).items():
        yield Finding(rule, count.looked_at, count.failing, *reviewed(count.failing))
    for demand in demands:
        if look.asked(demand.rule):
            for row in failing_rows(keys, demand, lambda t: t.n, REVIEWED):
                look.review.add(demand.rule, row["customer"], None, f"{row['n']} rows")


def _busy(look: Looking) -> Iterator[Finding]:
    total, mean, spread, rows_each = look.one(
        f"SELECT count(*), avg(magnitude), stddev_samp(magnitude), avg(n) FROM {CUSTOMERS}"
    )
    if total < FEW:
        yield _too_few("busy_customers", "customers", "客户")
        yield _too_few("house_accounts", "customers", "客户")
        return
    columns = {"customer": "text", "n": "integer", "magnitude": "number"}
    rows = declared_rows(look.db, CUSTOMERS, columns)
    busy = Demand("busy_customers", lambda t: t.magnitude <= mean + 3 * spread + 1e-9)
    count = count_failing(rows, [busy])[busy.rule]
    yield Finding(busy.rule, count.looked_at, count.failing, *reviewed(count.failing))
    most = max(_HOUSE_TIMES * rows_each, _HOUSE_SHARE * total * rows_each)
    house = Demand("house_accounts", lambda t: t.n <= most)
    accounts = failing_rows(rows, house, lambda t: t.n, REVIEWED)
    their_rows = sum(row["n"] for row in accounts)
    yield Finding(house.rule, round(total * rows_each), their_rows, *reviewed(len(accounts)))
    for row in accounts:
        look.review.add(house.rule, row["customer"], None, f"{row['n']} rows")
    for row in failing_rows(rows, busy, lambda t: t.n, REVIEWED):
        look.review.add(busy.rule, row["customer"], None, f"{row['n']} rows")


def _refunded(look: Looking) -> Iterator[Finding]:
    rule = "refund_above_bought"
    columns = {"customer": "text", "bought": "integer", "refunded": "integer"}
    rows = declared_rows(look.db, CUSTOMERS, columns)
    demand = Demand(rule, lambda t: t.refunded <= t.bought)
    count = count_failing(rows, [demand])[rule]
    yield Finding(rule, count.looked_at, count.failing, *reviewed(count.failing))
    for row in failing_rows(rows, demand, lambda t: t.refunded - t.bought, REVIEWED):
        value = f"{row['refunded'] / 100} back for {row['bought'] / 100}"
        look.review.add(rule, row["customer"], None, value)


def _refund_first(look: Looking) -> Iterator[Finding]:
    rule = "refund_without_purchase"
    look.db.execute(
        "CREATE OR REPLACE TEMP VIEW quality_refunds AS SELECT customer, time, "
        "amount_cents AS cents, coalesce(first_purchase <= time, false) AS follows "
        f"FROM {look.view.events} JOIN {CUSTOMERS} USING (customer) WHERE {IS_RETURN}"
    )
    rows = declared_rows(
        look.db, "quality_refunds", {"customer": "text", "time": "time", "cents": "integer"}
    )
    demand = Demand(rule, lambda t: t.follows)
    count = count_failing(rows, [demand])[rule]
    yield Finding(rule, count.looked_at, count.failing, *reviewed(count.failing))
    for row in failing_rows(rows, demand, lambda t: t.cents.abs(), REVIEWED):
        look.review.add(rule, row["customer"], row["time"], row["cents"] / 100)


def reviewed(failing: int) -> tuple[str, str]:
    """Where to see what failed, in both languages; empty where nothing did."""
    if not failing:
        return "", ""
    if failing > REVIEWED:
        return (
            f"the {REVIEWED:,} most marked are in review.csv",
            f"最突出的 {REVIEWED:,} 条见 review.csv",
        )
    return "in review.csv", "见 review.csv"


def _too_few(rule: str, what: str, what_zh: str) -> Finding:
    return Finding(rule, None, note=f"fewer than {FEW} {what}", note_zh=f"{what_zh}少于 {FEW} 条")
