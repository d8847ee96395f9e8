"""The desk: who may ask what, what is withheld, and that every question is on record."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pyarrow import parquet

from party_client.desk_views import SMALLEST_CELL
from party_client.people import customer_hash
from party_client.roles import MAY, Permission, Role
from party_client.settings import PartySettings, load_settings
from party_client.withholding import masked_id, withheld
from privacy.errors import AccessDenied, ConfigError, DataError, NotFound, StoreError
from privacy.hosting.access import Principal
from privacy.hosting.access_log import AccessRecord, read_page, verify_log
from tests.desk_home import (
    ADMIN,
    EVERYONE,
    HIGH,
    LOW,
    MARKETER,
    MEDIUM,
    OPERATOR,
    PURPOSE,
    RETENTION_ONLY,
    REVIEWER,
    WITHOUT_TAGS,
    Opened,
    make_home,
    opened,
    write_consents,
)

PASSWORD = "a long enough password"
DIGEST = "d" * 64


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> PartySettings:
    return make_home(tmp_path_factory.mktemp("template"))


@pytest.fixture
def home(template: PartySettings, tmp_path: Path) -> Iterator[Opened]:
    shutil.copytree(template.home, tmp_path / "bank")
    with opened(load_settings(tmp_path / "bank")) as found:
        yield found


def logged(home: Opened) -> list[AccessRecord]:
    """The access log's lines, newest first."""
    home.desk.access_log(ADMIN)
    return read_page(home.settings.access_log, 1, 10_000)[0][1:]


# Every operation of the desk, and the permission that it takes.
OPERATIONS: dict[str, tuple[Permission, Callable[[Opened, Principal], object]]] = {
    "overview": (Permission.SEE_NODE, lambda h, who: h.desk.overview(who)),
    "customer": (Permission.READ_CUSTOMER, lambda h, who: h.desk.customer(who, "c001", PURPOSE)),
    "history": (Permission.READ_CUSTOMER, lambda h, who: h.desk.history(who, "c001", PURPOSE)),
    "segments": (Permission.COUNT_SEGMENTS, lambda h, who: h.desk.segments(who, PURPOSE)),
    "export_segment": (
        Permission.EXPORT,
        lambda h, who: h.desk.export_segment(who, "churn_risk", None, PURPOSE, "csv"),
    ),
    "opt_out": (Permission.OPT_OUT, lambda h, who: h.desk.opt_out(who, "c090", "asked by letter")),
    "refresh_consents": (Permission.REFRESH_CONSENT, lambda h, who: h.desk.refresh_consents(who)),
    "purposes": (Permission.SEE_CATALOGUE, lambda h, who: h.desk.purposes(who)),
    "catalogue": (Permission.SEE_CATALOGUE, lambda h, who: h.desk.catalogue(who)),
    "waiting": (Permission.SEE_PLANS, lambda h, who: h.desk.waiting(who)),
    "plans": (Permission.SEE_PLANS, lambda h, who: h.desk.plans(who)),
    "plan": (Permission.SEE_PLANS, lambda h, who: h.desk.plan(who, DIGEST)),
    "decide": (Permission.DECIDE, lambda h, who: h.desk.decide(who, DIGEST, False, "no")),
    "budget": (Permission.SEE_BUDGET, lambda h, who: h.desk.budget(who)),
    "ledger": (Permission.SEE_LEDGER, lambda h, who: h.desk.ledger(who)),
    "egress": (Permission.SEE_EGRESS, lambda h, who: h.desk.egress(who)),
    "quality": (Permission.SEE_QUALITY, lambda h, who: h.desk.quality(who)),
    "people": (Permission.SEE_PEOPLE, lambda h, who: h.desk.people(who)),
    "tokens": (Permission.SEE_PEOPLE, lambda h, who: h.desk.tokens(who)),
    "add_person": (
        Permission.MANAGE_PEOPLE,
        lambda h, who: h.desk.add_person(who, "bob", "reviewer", None),
    ),
    "set_role": (Permission.MANAGE_PEOPLE, lambda h, who: h.desk.set_role(who, "bob", "marketer")),
    "set_password": (
        Permission.MANAGE_PEOPLE,
        lambda h, who: h.desk.set_password(who, "bob", PASSWORD),
    ),
    "remove_person": (Permission.MANAGE_PEOPLE, lambda h, who: h.desk.remove_person(who, "bob")),
    "create_token": (
        Permission.MANAGE_PEOPLE,
        lambda h, who: h.desk.create_token(who, "crm", "operator"),
    ),
    "revoke_token": (Permission.MANAGE_PEOPLE, lambda h, who: h.desk.revoke_token(who, "crm")),
    "access_log": (Permission.SEE_ACCESS, lambda h, who: h.desk.access_log(who)),
}
FOR_THE_PROCESS = {"access", "close", "note_sign_in", "store", "working"}


def test_the_table_of_roles_is_this() -> None:
    every = set(Permission)
    see = {one for one in every if one.name.startswith("SEE_")} - {Permission.SEE_FULL_ID}
    assert {
        Role.ADMIN: every,
        Role.OPERATOR: every
        - {Permission.SEE_PEOPLE, Permission.MANAGE_PEOPLE, Permission.SEE_ACCESS},
        Role.MARKETER: {
            Permission.READ_CUSTOMER,
            Permission.COUNT_SEGMENTS,
            Permission.SEE_CATALOGUE,
        },
        Role.REVIEWER: see | {Permission.COUNT_SEGMENTS},
    } == MAY


def test_every_operation_of_the_desk_is_in_the_list_of_these_tests(home: Opened) -> None:
    public = {name for name in dir(home.desk) if not name.startswith("_")}
    assert public - FOR_THE_PROCESS == set(OPERATIONS)


def test_a_role_may_do_what_the_table_says_and_nothing_else(home: Opened) -> None:
    for principal in (REVIEWER, MARKETER, OPERATOR, ADMIN, Principal("x", "owner")):
        granted = MAY.get(Role(principal.role), set()) if principal.role in set(Role) else set()
        for permission, operation in OPERATIONS.values():
            if permission in granted:
                # What is not found, or judged, was looked at: the role was not the obstacle.
                with suppress(NotFound, ConfigError):
                    operation(home, principal)
            else:
                with pytest.raises(AccessDenied, match=f"may not {permission.value}"):
                    operation(home, principal)


def test_every_question_is_in_the_access_log_also_a_denied_one(home: Opened) -> None:
    for permission, operation in OPERATIONS.values():
        before = len(logged(home))
        with pytest.raises(AccessDenied):
            operation(home, Principal("eve", "nobody", address="10.9.9.9"))
        new = logged(home)[: len(logged(home)) - before]
        denied = [one for one in new if not one.allowed]
        assert [(one.who, one.what, one.address) for one in denied] == [
            ("eve", permission.value, "10.9.9.9")
        ]
    verify_log(home.settings.access_log)


def test_a_customer_is_shown_with_where_each_tag_comes_from(home: Opened) -> None:
    found = home.desk.customer(OPERATOR, "c001", PURPOSE)
    (tag,) = found.tags
    assert (found.customer, found.masked, found.why) == ("c001", False, None)
    assert (tag.tag, tag.value, tag.score, tag.run_id) == ("churn_risk", "high", 0.9, "run-1")
    assert tag.parties == ("bank", "retailer", "shop")
    assert tag.display_name_zh
    assert tag.value_zh != tag.value


def test_the_access_log_has_a_keyed_hash_and_never_an_id(home: Opened) -> None:
    home.desk.customer(OPERATOR, "c001", PURPOSE)
    home.desk.customer(OPERATOR, " c001 ", PURPOSE)
    home.desk.customer(OPERATOR, "c002", PURPOSE)
    two, again, one = (line.customer for line in logged(home)[:3])
    assert one == again == customer_hash(home.access, "c001")
    assert two != one
    assert b"c001" not in home.settings.access_log.read_bytes()


def test_an_id_typed_into_another_field_is_not_written_down(home: Opened) -> None:
    for ask in (
        lambda: home.desk.customer(OPERATOR, "c001", "c777"),
        lambda: home.desk.segments(OPERATOR, "c777"),
        lambda: home.desk.export_segment(OPERATOR, "c777", None, PURPOSE, "csv"),
        lambda: home.desk.export_segment(OPERATOR, "churn_risk", "c777", PURPOSE, "csv"),
    ):
        with pytest.raises(ConfigError):
            ask()
    home.desk.access_log(ADMIN)
    assert b"c777" not in home.settings.access_log.read_bytes()


def test_a_marketer_sees_masked_ids_of_customers_that_he_names(home: Opened) -> None:
    found = home.desk.customer(MARKETER, "c001", PURPOSE)
    assert found.masked
    assert "c001" not in found.customer
    assert [tag.value for tag in found.tags] == ["high"]


@pytest.mark.parametrize("customer", ["", "c", "c0001", "c000001", "anna.lee@example.org"])
def test_a_masked_id_shows_two_characters_at_most_and_no_length(customer: str) -> None:
    masked = masked_id(customer)
    shown = masked.strip("•")
    assert len(masked) - len(shown) == 4
    assert len(shown) <= max(0, min(2, len(customer) - 4))
    assert customer.endswith(shown)


def test_who_is_unknown_without_consent_or_without_tags_looks_the_same(home: Opened) -> None:
    answers = {
        home.desk.customer(MARKETER, one, PURPOSE).why
        for one in (RETENTION_ONLY, WITHOUT_TAGS, "c999")
    }
    assert len(answers) == 1
    assert home.desk.customer(MARKETER, RETENTION_ONLY, "retention").tags


@pytest.mark.parametrize("customer", ["", "   ", "x" * 256, "x" * 1001])
def test_what_is_no_customer_id_is_refused_and_logged_without_it(
    home: Opened, customer: str
) -> None:
    with pytest.raises(DataError):
        home.desk.customer(OPERATOR, customer, PURPOSE)
    assert logged(home)[0].customer is None


def test_sql_in_a_customer_id_is_an_unknown_customer(home: Opened) -> None:
    for text in ("c001' OR '1'='1", "'; DROP TABLE customers; --", "c001%", "c001\\", "c00_"):
        assert home.desk.customer(OPERATOR, text, PURPOSE).tags == ()
    assert home.desk.customer(OPERATOR, "c001", PURPOSE).tags


def counts(home: Opened, purpose: str = PURPOSE) -> dict[str, int | None]:
    return {
        one.value: one.customers
        for one in home.desk.segments(MARKETER, purpose)
        if one.tag == "churn_risk"
    }


def test_a_small_count_is_withheld_and_the_next_one_with_it(home: Opened) -> None:
    assert len(LOW) < SMALLEST_CELL
    # Were only `low` withheld, the total minus the others would give it away.
    assert counts(home, "retention") == {"low": None, "medium": len(MEDIUM), "high": None}


def test_a_value_that_nobody_has_looks_like_one_that_few_have() -> None:
    assert withheld({"a": 0, "b": 300, "c": 200}) == withheld({"a": 19, "b": 300, "c": 200})


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, {}),
        ({"yes": 5}, {"yes": None}),
        ({"yes": 20}, {"yes": 20}),
        ({"a": 20, "b": 21}, {"a": 20, "b": 21}),
        ({"a": 19, "b": 21}, {"a": None, "b": None}),
        ({"a": 10, "b": 12, "c": 100, "d": 50}, {"a": None, "b": None, "c": 100, "d": 50}),
        # Two small ones whose sum is small: with the total known, their sum would be, too.
        ({"a": 1, "b": 2, "c": 100, "d": 50}, {"a": None, "b": None, "c": 100, "d": None}),
        ({"a": 0, "b": 0, "c": 30}, {"a": None, "b": None, "c": None}),
        ({"a": 1, "c": 100, "d": 50}, {"a": None, "c": 100, "d": None}),
    ],
)
def test_what_is_withheld(given: dict[str, int], shown: dict[str, int | None]) -> None:
    assert withheld(given) == shown


def test_every_readable_value_of_the_catalogue_is_listed(home: Opened) -> None:
    listed = {(one.tag, one.value) for one in home.desk.segments(REVIEWER, PURPOSE)}
    assert {
        (tag.name, value)
        for tag in home.desk.catalogue(REVIEWER)
        if tag.readable and PURPOSE in tag.purposes
        for value in tag.values
    } == listed


def exported(home: Opened, form: str, value: str | None = "high") -> list[dict[str, object]]:
    pieces = home.desk.export_segment(OPERATOR, "churn_risk", value, PURPOSE, form)
    data = b"".join(pieces)
    if form == "csv":
        return list(csv.DictReader(io.StringIO(data.decode())))
    return list(parquet.read_table(io.BytesIO(data)).to_pylist())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_export_has_those_who_consented_to_its_purpose(home: Opened, form: str) -> None:
    rows = exported(home, form)
    assert {row["customer"] for row in rows} == set(HIGH) - {RETENTION_ONLY}
    assert {row["value"] for row in rows} == {"high"}
    assert {row["run_id"] for row in rows} == {"run-1"}
    assert len(exported(home, form, None)) == len(EVERYONE) - 1


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_empty_export_has_its_columns(home: Opened, form: str) -> None:
    data = b"".join(
        home.desk.export_segment(OPERATOR, "purchase_propensity", "high", PURPOSE, form)
    )
    if form == "csv":
        assert data.decode().startswith("customer,tag,value,")
    else:
        assert parquet.read_table(io.BytesIO(data)).column_names[:2] == ["customer", "tag"]


def test_an_opt_out_takes_tags_away_for_good(home: Opened) -> None:
    done = home.desk.opt_out(OPERATOR, "c001", "asked by letter")
    assert (done.customer, done.repeated, done.unlearned) == ("c001", False, False)
    for purpose in ("marketing", "retention"):
        assert home.desk.customer(OPERATOR, "c001", purpose).tags == ()
    assert "c001" not in {row["customer"] for row in exported(home, "csv")}
    assert home.desk.opt_out(OPERATOR, "c001", "asked again").repeated
    home.desk.refresh_consents(OPERATOR)
    assert home.desk.customer(OPERATOR, "c001", PURPOSE).tags == ()


def test_a_refresh_of_consents_counts_at_once(home: Opened) -> None:
    assert home.desk.customer(OPERATOR, "c002", PURPOSE).tags
    write_consents(home.settings.home, [one for one in EVERYONE if one != "c002"])
    home.desk.refresh_consents(OPERATOR)
    assert home.desk.customer(OPERATOR, "c002", PURPOSE).tags == ()
    assert home.desk.customer(OPERATOR, "c003", PURPOSE).tags


def test_a_decision_is_a_persons_and_never_a_tokens(home: Opened) -> None:
    token = Principal("script", "operator", "token")
    with pytest.raises(AccessDenied, match="a person's"):
        home.desk.decide(token, DIGEST, True, "automatic")
    assert not logged(home)[0].allowed
    with pytest.raises(NotFound):
        home.desk.decide(OPERATOR, DIGEST, True, "looked at it")


def test_the_node_is_told_from_its_files(home: Opened) -> None:
    overview = home.desk.overview(REVIEWER)
    assert (overview.party, overview.running, overview.waiting_plans) == ("bank", False, 0)
    assert {chain.name: chain.whole for chain in overview.chains} == {
        "ledger": True,
        "egress": True,
        "access": True,
    }
    assert home.desk.budget(REVIEWER).used == 0
    ledger = home.desk.ledger(REVIEWER)
    assert [line.line for line in ledger.lines] == [1]
    assert home.desk.ledger(REVIEWER, 2).lines == ()
    assert home.desk.egress(REVIEWER).lines == ()
    assert home.desk.quality(REVIEWER) is None


def test_an_altered_ledger_shows_and_is_not_hidden_by_the_rest(home: Opened) -> None:
    data = home.settings.ledger.read_bytes()
    home.settings.egress.write_bytes(b"not a chain\n")
    home.settings.egress.chmod(0o600)
    chains = {one.name: one.whole for one in home.desk.overview(REVIEWER).chains}
    assert chains == {"ledger": True, "egress": False, "access": True}
    assert home.settings.ledger.read_bytes() == data


def test_nobody_is_answered_while_the_access_log_cannot_be_written(home: Opened) -> None:
    home.desk.customer(OPERATOR, "c001", PURPOSE)
    home.settings.access_log.chmod(0o644)
    with pytest.raises(StoreError):
        home.desk.access_log(ADMIN)
    with pytest.raises(StoreError, match="access log"):
        home.desk.customer(OPERATOR, "c001", PURPOSE)
    assert home.desk.working() is not None


def test_an_admin_cannot_leave_the_node_without_one(home: Opened) -> None:
    home.desk.add_person(ADMIN, "anna", "admin", PASSWORD)
    with pytest.raises(ConfigError, match="last admin"):
        home.desk.remove_person(ADMIN, "anna")


def test_an_unknown_role_is_refused(home: Opened) -> None:
    with pytest.raises(ConfigError, match="role"):
        home.desk.add_person(ADMIN, "bob", "owner", None)
    with pytest.raises(ConfigError, match="role"):
        home.desk.create_token(ADMIN, "crm", "owner")
    assert home.desk.people(ADMIN) == []
