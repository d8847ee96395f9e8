"""The tag catalogue: what is shipped, what a party may change, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from models.facts import FACTS
from models.forbidden import forbidden
from models.tag_catalogue import (
    DIMENSIONS,
    CatalogueTag,
    load_catalogue,
    shipped_catalogue,
)
from models.tag_rules import Bands, Cases, OtherFact, Quantiles, Text
from privacy.errors import ConfigError

CHINESE = re.compile("[\u4e00-\u9fff]")
OWN = """
display_name = "Reader"
display_name_zh = "读者"
dimension = "preference"
owner = "shop team"
value_type = "flag"
values = ["yes"]
values_zh = ["是"]
purposes = ["marketing"]
description = "Bought for more than 3."
description_zh = "消费金额超过3。"
rule = { kind = "cases", cases = [{ value = "yes", when = [{ fact = "spend_90", above = 3 }] }] }
"""


def overlay(folder: Path, text: str) -> Path:
    path = folder / "catalogue.toml"
    path.write_text("format = 1\n" + text, encoding="utf-8")
    return path


def own(**changes: str) -> str:
    lines = []
    for line in OWN.strip().splitlines():
        key = line.split(" = ")[0]
        value = changes.pop(key, line.split(" = ", 1)[1])
        if value:
            lines.append(f"{key} = {value}")
    lines += [f"{key} = {value}" for key, value in changes.items()]
    return "[tags.reader]\n" + "\n".join(lines) + "\n"


# What is shipped ---------------------------------------------------------------------------------


def test_at_least_sixty_local_tags_are_shipped_in_all_five_dimensions() -> None:
    local = [tag for tag in shipped_catalogue().tags if tag.task is None]
    assert len(local) >= 60
    assert all(tag.computed for tag in local)
    assert {tag.dimension for tag in local} == set(DIMENSIONS)


def test_every_shipped_entry_is_described_in_both_languages() -> None:
    for entry in shipped_catalogue().values():
        assert CHINESE.search(entry.display_name_zh), entry.name
        assert CHINESE.search(entry.description_zh), entry.name
        assert not CHINESE.search(entry.display_name + entry.description), entry.name
        assert entry.description.endswith("."), entry.name
        assert entry.description_zh.endswith("。"), entry.name
        assert forbidden(entry.name) is None


def test_no_two_entries_have_one_name_to_a_reader() -> None:
    for names in (
        [tag.display_name for tag in shipped_catalogue().tags],
        [tag.display_name_zh for tag in shipped_catalogue().tags],
        [tag.description for tag in shipped_catalogue().tags],
        [tag.description_zh for tag in shipped_catalogue().tags],
    ):
        assert len(set(names)) == len(names)


def test_every_value_has_one_chinese_word() -> None:
    for tag in shipped_catalogue().tags:
        assert len(set(tag.values_zh)) == len(tag.values)
        assert [tag.value_zh(value) for value in tag.values] == list(tag.values_zh)


def test_every_fact_is_used_by_a_shipped_tag_or_kept_for_a_partys_own() -> None:
    used: set[str] = set()
    for tag in shipped_catalogue().tags:
        rule = tag.rule
        if isinstance(rule, Bands | Quantiles | Text):
            used.add(rule.fact)
        elif isinstance(rule, Cases):
            for condition in (one for case in rule.cases for one in case.when):
                bounds = condition.bounds.values()
                used |= {condition.fact}
                used |= {bound.fact for bound in bounds if isinstance(bound, OtherFact)}
    assert set(FACTS) - used == {"spend_90", "spend_before_90"}


def test_every_tag_stands_under_a_group_of_its_dimension() -> None:
    for tag in shipped_catalogue().tags:
        top = shipped_catalogue().path(tag.name)[-1]
        assert top.value_type == "group"
        assert top.dimension == tag.dimension


def test_an_entry_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        shipped_catalogue()["churn_risk"].state = "retired"


def test_a_group_has_no_value_and_is_no_tag() -> None:
    group = shipped_catalogue()["life_cycle"]
    assert not group.accepts("yes")
    assert not group.readable
    assert not group.computed
    assert group not in shipped_catalogue().tags
    with pytest.raises(ConfigError, match="no such tag"):
        shipped_catalogue().tag("life_cycle")
    with pytest.raises(ConfigError, match="no such tag"):
        shipped_catalogue().tag("nothing")


def test_only_values_of_the_enumeration_are_accepted() -> None:
    tag = shipped_catalogue()["churn_risk"]
    assert tag.accepts("high")
    assert not tag.accepts("High")
    assert not tag.accepts("")


@pytest.mark.parametrize("value", ["", " a", "a\n", "a\x00", "\u202eabc", "x" * 65])
def test_a_text_is_printable_and_short(value: str) -> None:
    tag = shipped_catalogue()["preferred_category"]
    assert tag.accepts("家电 & more")
    assert tag.accepts("x" * 64)
    assert not tag.accepts(value)


# What a party changes ----------------------------------------------------------------------------


def test_a_party_without_changes_has_the_shipped_catalogue(tmp_path: Path) -> None:
    assert load_catalogue() == shipped_catalogue()
    assert load_catalogue(tmp_path / "none.toml") == shipped_catalogue()


def test_a_party_changes_state_owner_purposes_weight_validity_and_thresholds(
    tmp_path: Path,
) -> None:
    text = """
[tags.night_buyer]
state = "frozen"
owner = "night shop"
purposes = ["service"]
weight = 2.5
valid_days = 5
[tags.average_basket.rule]
edges = [10, 20, 30, 40]
[tags.life_cycle_stage]
update = "periodic"
"""
    changed = load_catalogue(overlay(tmp_path, text))
    night = changed["night_buyer"]
    assert (night.state, night.owner, night.weight, night.valid_days) == (
        "frozen", "night shop", 2.5, 5,
    )  # fmt: skip
    assert night.purposes == ("service",)
    assert not night.computed
    assert night.readable
    assert changed["average_basket"].rule.edges == (10, 20, 30, 40)  # type: ignore[union-attr]
    assert night.rule == shipped_catalogue()["night_buyer"].rule
    assert changed["churn_risk"] == shipped_catalogue()["churn_risk"]
    assert changed.digest != shipped_catalogue().digest
    assert len(changed) == len(shipped_catalogue())


@pytest.mark.parametrize(
    ("state", "computed", "readable"),
    [
        ("draft", False, False),
        ("listed", True, True),
        ("frozen", False, True),
        ("retired", False, False),
    ],
)
def test_a_state_says_what_is_computed_and_read(
    state: str, computed: bool, readable: bool, tmp_path: Path
) -> None:
    text = f'[tags.night_buyer]\nstate = "{state}"\n'
    tag = load_catalogue(overlay(tmp_path, text))["night_buyer"]
    assert (tag.computed, tag.readable) == (computed, readable)


def test_a_party_adds_a_tag_of_its_own(tmp_path: Path) -> None:
    catalogue = load_catalogue(overlay(tmp_path, own(parent='"category_preference"')))
    assert isinstance(catalogue["reader"], CatalogueTag)
    assert [one.name for one in catalogue.path("reader")] == ["reader", "category_preference"]
    assert catalogue["reader"] in catalogue.tags


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first = load_catalogue(overlay(tmp_path, own()))
    again = load_catalogue(overlay(tmp_path, own() + "# a comment\n"))
    other = load_catalogue(overlay(tmp_path, own(weight="2")))
    assert first.digest == again.digest != other.digest
    assert re.fullmatch("[0-9a-f]{64}", first.digest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[tags.night_buyer]\nvalues = ["ja"]', r"night_buyer: values: fixed for a shipped tag"),
        ('[tags.churn_risk.rule]\ntask = "churn"', r"churn_risk: rule: fixed"),
        ('[tags.night_buyer]\nstate = "hidden"', r"night_buyer(.|\n)*state"),
        ("[tags.night_buyer]\nweight = -1", r"night_buyer(.|\n)*weight"),
        ("[tags.night_buyer]\nvalid_days = 0", r"night_buyer(.|\n)*valid_days"),
        ("[tags.night_buyer]\npurposes = []", r"night_buyer(.|\n)*purposes: at least one"),
        ("[tags.night_buyer]\nrule = 3", r"night_buyer: rule: a table"),
        ("[tags.average_basket.rule]\nedges = [1, 2]", r"average_basket(.|\n)*2 cuts make 3"),
        ("[tags.average_basket.rule]\nedges = [1, 4, 3, 5]", r"average_basket(.|\n)*larger than"),
        ("[tags.average_basket.rule]\nedges = [1, 2, 3, nan]", r"average_basket(.|\n)*edges"),
        ('[tags.average_basket.rule]\nfact = "age"', r"average_basket(.|\n)*fact: age is not"),
        ('[tags.average_basket.rule]\nfact = "top_category"', r"is not a fact that is a number"),
        ('[tags.preferred_category.rule]\nfact = "spend_90"', r"is not a fact that is a text"),
        ('[tags.night_buyer]\nparent = "nobody"', r"night_buyer: parent: there is no entry nobody"),
        ('[tags.night_buyer]\nname = "x"', r"night_buyer: name: fixed"),
        ("[tags.reader]\n" + OWN + 'name = "x"', r"reader: name"),
        (own(owner=""), r"reader(.|\n)*owner"),
        (own(colour='"red"'), r"reader(.|\n)*colour: unknown key"),
        (own(values='["no"]'), r"a flag has the one value yes"),
        (own(values_zh="[]"), r"values_zh: as many as values"),
        (own(value_type='"band"'), r"a rule of kind cases makes enum or flag"),
        (own(value_type='"enum"', values='["a"]'), r"exactly the values"),
        (own(display_name='"Religion"'), r"says religion"),
        (own(display_name_zh='"健康状况"'), r"says health"),
        (own(dimension='"belief"'), r"reader(.|\n)*dimension"),
        ("[tags.is_pregnant]\n" + OWN, r"is_pregnant(.|\n)*says health"),
        ("[tags.Reader]\n" + OWN, r"tag Reader(.|\n)*name"),
        ("tags = 3", r"a table \[tags.NAME\]"),
        ("[tags]\nreader = 3", r"tags.reader: a table"),
        ("[other]\na = 1", r"other: unknown key"),
        ("[tags.a]\n[tags.a]\n", r"cannot be read as TOML"),
    ],
)
def test_a_wrong_change_is_refused_by_tag_and_key(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_catalogue(overlay(tmp_path, text))


def test_a_condition_without_a_bound_is_refused(tmp_path: Path) -> None:
    rule = '{ kind = "cases", cases = [{ value = "yes", when = [{ fact = "spend_90" }] }] }'
    with pytest.raises(ConfigError, match="needs at_least, above, at_most or below"):
        load_catalogue(overlay(tmp_path, own(rule=rule)))


def test_a_cycle_is_refused_and_its_members_named(tmp_path: Path) -> None:
    text = """
[tags.life_cycle]
parent = "churn_warning"
"""
    with pytest.raises(ConfigError, match=r"life_cycle -> churn_warning -> life_cycle"):
        load_catalogue(overlay(tmp_path, text))
    with pytest.raises(ConfigError, match=r"night_buyer -> night_buyer"):
        load_catalogue(overlay(tmp_path, '[tags.night_buyer]\nparent = "night_buyer"\n'))


@pytest.mark.parametrize("content", [b"", b"format = 2\n", b"\xff\xfe", b"#" * (1024 * 1024 + 1)])
def test_a_file_that_is_no_catalogue_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"catalogue"):
        load_catalogue(path)
