"""The difference of two plans: what they mean, key by key, in printable words."""

from __future__ import annotations

import tomllib

from models.plan import parse_plan
from models.plan_diff import Change, changes, meaning

PLAN = """
format = 1
name = "churn"
purpose = "retention"
[task]
kind = "churn"
cutoff = 2024-01-01
[privacy]
epsilon = 1.0
"""


def between(before: str, after: str) -> list[Change]:
    return list(changes(tomllib.loads(before), tomllib.loads(after)))


def meant(before: str, after: str) -> list[Change]:
    plans = [meaning(parse_plan(text.encode())) for text in (before, after)]
    return list(changes(*plans))


def test_equal_plans_have_no_difference() -> None:
    assert between(PLAN, PLAN) == []


def test_a_changed_value_is_told_with_what_it_was() -> None:
    assert between(PLAN, PLAN.replace("epsilon = 1.0", "epsilon = 2.5")) == [
        Change("privacy.epsilon", "1.0", "2.5")
    ]
    assert between(PLAN, PLAN.replace("2024-01-01", "2024-03-01")) == [
        Change("task.cutoff", "2024-01-01", "2024-03-01")
    ]


def test_a_new_key_has_no_before_and_one_that_is_gone_no_after() -> None:
    longer = PLAN + "evaluation_epsilon = 0.5\n"
    assert between(PLAN, longer) == [Change("privacy.evaluation_epsilon", None, "0.5")]
    assert between(longer, PLAN) == [Change("privacy.evaluation_epsilon", "0.5", None)]
    assert [one.key for one in between("", "a = 1\n[b]\nc = 2")] == ["a", "b.c"]


def test_comments_order_and_a_default_written_down_are_no_change() -> None:
    told = "# thanks\n" + PLAN.replace("epsilon = 1.0", "evaluation_epsilon = 1.0\nepsilon = 1")
    assert meant(PLAN, told) == []


def test_a_default_that_is_no_more_held_is_told_with_the_default() -> None:
    weighed = PLAN + '[aggregation]\nweights = "noised_size"\n'
    assert meant(PLAN, weighed) == [Change("aggregation.weights", '"public_size"', '"noised_size"')]


def test_a_table_of_a_list_is_named_so_that_one_put_between_changes_no_other() -> None:
    one = '[[c]]\nname = "age"\nlow = 0\n[[c]]\nname = "visits"\nlow = 1\n'
    two = one.replace('[[c]]\nname = "visits', '[[c]]\nname = "b"\nlow = 2\n[[c]]\nname = "visits')
    assert between(one, two) == [Change("c[b].name", None, '"b"'), Change("c[b].low", None, "2")]


def test_tables_without_names_of_their_own_are_numbered() -> None:
    assert between("[[c]]\nx = 1\n[[c]]\nx = 2", "[[c]]\nx = 1\n[[c]]\nx = 3") == [
        Change("c[2].x", "2", "3")
    ]
    twice = '[[c]]\nname = "a"\n[[c]]\nname = "a"'
    assert [one.key for one in between("", twice)] == ["c[1].name", "c[2].name"]


def test_a_value_of_another_kind_is_a_change_and_a_table_in_place_of_a_value_too() -> None:
    assert between("a = 1", 'a = "1"') == [Change("a", "1", '"1"')]
    assert between("a = true", "a = 1") == [Change("a", "true", "1")]
    assert between("a = 1", "[a]\nb = 1") == [Change("a.b", None, "1"), Change("a", "1", None)]


def test_what_a_person_reads_is_one_line_of_printable_characters() -> None:
    change = between('a = ""', 'a = "\\u001b[31m\\u202eevil\\n\\u2028 流失"')[0]
    assert change.after is not None
    assert change.after.isprintable()
    assert "流失" in change.after
    assert "\\U0000202e" in change.after
