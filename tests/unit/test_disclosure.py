"""What a party tells its coordinator: which fields there are, what a policy lets out, and when."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from party_client import disclosure as telling
from party_client.cli import app
from party_client.disclosure import Teller, build
from party_client.egress import DISCLOSURE, EgressLog
from party_client.model_shelf import ModelShelf
from party_client.policy import load_policy
from party_client.settings import PartySettings, load_settings
from party_client.setup import initialise
from privacy import disclosure
from privacy.disclosure import MAX_DISCLOSURE_BYTES, SECTIONS, TOLD, Disclosure, read_disclosure
from privacy.errors import NotRunningError, ProtocolError
from privacy.hosting.sealing import Sealing
from privacy.identity import read_secret
from privacy.ledger import Ledger
from privacy.messages import Treatment
from tests.disclosures import everything_told, pin_federation, set_policy
from tests.kept_models import kept, source
from tests.ledgers import BOTH, reserve

# Every value that may leave this way. A new one is argued for first: docs/adr/0028.
FIELDS = {
    "Disclosure": "format federation party sequence status budget limits approvals tags models"
    " egress",
    "StatusTold": "version bundle public_size ledger_position ledger_hash",
    "BudgetTold": "epsilon delta spent used last_run runs_left",
    "LimitTold": "name window purpose plan epsilon spent",
    "ApprovalsTold": "waiting approved",
    "TagTold": "name state",
    "ModelTold": "run plan model",
    "EgressTold": "runs other_messages other_bytes",
    "RunSent": "run messages bytes",
}


@pytest.fixture
def settings(tmp_path: Path) -> PartySettings:
    made = initialise(tmp_path / "bank", "bank", 6000)
    pin_federation(made)
    return made


def built(settings: PartySettings, sequence: int = 1) -> Disclosure:
    policy = load_policy(settings.policy)
    return build(settings, policy, Ledger(settings.ledger), sequence=sequence)


# Fields ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", TOLD, ids=lambda one: one.__name__)
def test_every_field_that_is_told_has_a_declared_treatment_and_says_why(
    part: type[BaseModel],
) -> None:
    for name, one in part.model_fields.items():
        declared = one.json_schema_extra
        assert isinstance(declared, dict), f"{part.__name__}.{name} has no treatment"
        assert Treatment(declared["treatment"]) is not Treatment.ENCRYPTED
        assert declared["note"]


def test_the_fields_that_are_told_are_these_and_no_others() -> None:
    assert {one.__name__: " ".join(one.model_fields) for one in TOLD} == FIELDS


def test_no_class_of_what_is_told_is_left_out_of_the_walk() -> None:
    made = {
        one
        for _, one in inspect.getmembers(disclosure, inspect.isclass)
        if issubclass(one, disclosure.Told) and one is not disclosure.Told
    }
    assert made == set(TOLD)
    named = {
        inner
        for one in TOLD
        for each in typing.get_type_hints(one).values()
        for inner in _inside(each)
    }
    assert named <= set(TOLD)


def _inside(hint: object) -> list[object]:
    if inspect.isclass(hint) and issubclass(hint, disclosure.Told):
        return [hint]
    return [one for argument in typing.get_args(hint) for one in _inside(argument)]


def test_the_one_value_that_is_made_of_data_is_noised_and_charged() -> None:
    charged = {
        f"{one.__name__}.{name}"
        for one in TOLD
        for name, each in one.model_fields.items()
        if isinstance(each.json_schema_extra, dict)
        and each.json_schema_extra["treatment"] == Treatment.CHARGED
    }
    assert charged == {"ModelTold.model"}


def test_the_largest_disclosure_fits() -> None:
    body = everything_told().encoded()
    assert 40_000 < len(body) <= MAX_DISCLOSURE_BYTES
    assert read_disclosure(body) == everything_told()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plain: plain | {"customers": 812},
        lambda plain: plain | {"sequence": "1"},
        lambda plain: plain | {"sequence": 0},
        lambda plain: plain | {"party": "Bank"},
        lambda plain: plain | {"format": 2},
        lambda plain: {key: value for key, value in plain.items() if key != "models"},
        lambda plain: plain | {"budget": plain["budget"] | {"spent": -1.0}},
        lambda plain: plain | {"budget": plain["budget"] | {"used": float("nan")}},
        lambda plain: plain | {"status": plain["status"] | {"version": "1\n2"}},
        lambda plain: plain | {"limits": plain["limits"][:1] * 2},
        lambda plain: plain | {"models": plain["models"] + plain["models"][:1]},
        lambda plain: plain | {"approvals": {"waiting": ["<script>"], "approved": []}},
    ],
)
def test_anything_but_a_disclosure_is_refused_and_not_repeated(
    spoil: Callable[[dict[str, typing.Any]], dict[str, typing.Any]],
) -> None:
    plain = everything_told().model_dump(mode="json")
    with pytest.raises(ProtocolError, match="not valid in") as caught:
        read_disclosure(json.dumps(spoil(plain)).encode())
    for told in ("812", "script", "customers", "Bank"):
        assert told not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 60_000, b"\xff", b"null", b'{"a":' * 9000])
def test_bytes_that_are_no_disclosure_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_disclosure(body)


def test_a_disclosure_of_more_than_64_kib_is_not_even_parsed() -> None:
    with pytest.raises(ProtocolError, match="65536 bytes"):
        read_disclosure(everything_told().encoded() + b" " * MAX_DISCLOSURE_BYTES)


# The policy decides ------------------------------------------------------------------------------


def test_init_lets_a_party_tell_what_the_guide_argues_for(settings: PartySettings) -> None:
    told = load_policy(settings.policy).disclosure.told
    assert told == ("status", "budget", "approvals", "models", "egress")


def test_a_policy_without_the_section_tells_nothing(settings: PartySettings) -> None:
    set_policy(settings, None)
    assert load_policy(settings.policy).disclosure.told == ()
    assert built(settings).told == ()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_policy_lets_out_the_sections_that_it_names_and_no_other(
    settings: PartySettings, section: str
) -> None:
    set_policy(settings, [section])
    made = built(settings)
    assert made.told == (section,)
    assert [one for one in SECTIONS if made.model_dump()[one] is None] == [
        one for one in SECTIONS if one != section
    ]


def test_a_disclosure_is_made_without_opening_data_or_tags(settings: PartySettings) -> None:
    set_policy(settings, list(SECTIONS))
    made = built(settings)
    assert made.told == SECTIONS
    assert not (settings.home / "events.parquet").exists()
    assert not (settings.home / "profile.db").exists()


def test_the_budget_that_is_told_is_the_ledgers(settings: PartySettings) -> None:
    ledger = Ledger(settings.ledger)
    before = built(settings).budget
    assert before is not None
    assert (before.spent, before.used, before.last_run, before.runs_left) == (0, 0, None, None)
    reserve(ledger, "run-1")
    told = built(settings).budget
    assert told is not None
    assert told.spent == ledger.spent()
    assert told.used == ledger.used() > 0
    assert told.last_run == "run-1"
    left = ledger.runs_left(BOTH, purpose="retention", plan="churn")
    assert told.runs_left == left > 0
    ledger.refund("run-1")
    given_back = built(settings).budget
    assert given_back == before


def test_a_sub_limit_that_is_not_told_does_not_show_in_the_runs_left(
    settings: PartySettings,
) -> None:
    narrow = '\n[[budget.limit]]\nname = "narrow"\nepsilon = 0.9\n'
    settings.policy.write_text(settings.policy.read_text() + narrow)
    ledger = Ledger(settings.ledger)
    reserve(ledger, "run-1")
    wide = ledger.runs_left(BOTH, purpose="retention", plan="churn")
    set_policy(settings, ["budget"])
    hidden = built(settings)
    assert hidden.budget is not None
    assert hidden.budget.runs_left == wide
    assert "narrow" not in hidden.model_dump_json()
    set_policy(settings, ["budget", "limits"])
    open_ = built(settings)
    assert open_.budget is not None
    assert open_.limits is not None
    assert open_.budget.runs_left == 0 < wide
    assert [(one.name, one.epsilon, one.spent) for one in open_.limits] == [
        ("narrow", 0.9, ledger.spent())
    ]


def test_the_status_names_where_the_ledger_ends(settings: PartySettings) -> None:
    ledger = Ledger(settings.ledger)
    reserve(ledger, "run-1")
    status, at = built(settings).status, ledger.position()
    assert status is not None
    assert (status.ledger_position, status.ledger_hash) == (at.position, at.hash)
    assert status.public_size == 6000


def test_the_tags_that_are_told_are_joint_ones_with_their_state_here(
    settings: PartySettings,
) -> None:
    settings.catalogue.write_text(
        'format = 1\n[tags.churn_risk]\nstate = "retired"\n'
        '[tags.secret_plan]\ndisplay_name = "V"\ndisplay_name_zh = "V"\ndimension = "value"\n'
        'owner = "x"\nvalue_type = "flag"\nvalues = ["yes"]\nvalues_zh = ["是"]\n'
        'purposes = ["marketing"]\ndescription = "d"\ndescription_zh = "d"\nrule = { kind = '
        '"cases", cases = [{ value = "yes", when = [{ fact = "spend_90", above = 3 }] }] }\n'
    )
    set_policy(settings, ["tags"])
    tags = built(settings).tags
    assert tags is not None
    assert {one.name: one.state for one in tags} == {
        "churn_risk": "retired",
        "purchase_propensity": "listed",
    }


# What leaves -------------------------------------------------------------------------------------


def test_a_disclosure_has_a_line_in_the_egress_log_that_names_what_it_tells(
    tmp_path: Path,
) -> None:
    log = EgressLog(tmp_path / "egress.jsonl")
    body = everything_told().encoded()
    log.record_request("POST", disclosure.PATH, body)
    (line,) = log.entries()
    assert (line.kind, line.bytes, line.epsilon) == (DISCLOSURE, len(body), 0.0)
    assert line.treatment == "constant, charged, disclosed"
    assert line.shape == (
        "status: told, budget: told, limits: 32 entries, approvals: told, tags: 32 entries, "
        "models: 64 entries, egress: told"
    )


def test_what_is_no_disclosure_does_not_leave_as_one(tmp_path: Path) -> None:
    log = EgressLog(tmp_path / "egress.jsonl")
    with pytest.raises(ProtocolError):
        log.record_request("POST", disclosure.PATH, b'{"customers": 812}')
    assert log.entries() == ()


def test_the_egress_totals_are_those_of_the_log(settings: PartySettings) -> None:
    EgressLog(settings.egress).record_request("GET", "/v1/members", b"12345")
    set_policy(settings, ["egress"])
    told = built(settings).egress
    assert told is not None
    assert (told.runs, told.other_messages, told.other_bytes) == ((), 1, 5)


# When --------------------------------------------------------------------------------------------


@dataclass
class Told:
    """A coordinator in memory, a clock, and a node that may be busy."""

    now: float = 1000.0
    busy: bool = False
    broken: Exception | None = None
    heard: list[Disclosure] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)

    def teller(self, settings: PartySettings) -> Teller:
        return Teller(settings, lambda: self.busy, clock=lambda: self.now, deliver=self.deliver)

    def deliver(self, _settings: PartySettings, made: Disclosure) -> None:
        self.tried.append(self.now)
        if self.broken is not None:
            raise self.broken
        self.heard.append(made)


def test_a_node_tells_at_its_start_and_then_every_quarter_of_an_hour(
    settings: PartySettings,
) -> None:
    told = Told()
    teller = told.teller(settings)
    assert teller.look()
    told.now += 899
    assert not teller.look()
    told.now += 1
    assert teller.look()
    first, second = told.heard
    assert second.sequence > first.sequence


def test_a_change_of_the_ledger_is_told_once_no_run_is_under_way(settings: PartySettings) -> None:
    told = Told()
    teller = told.teller(settings)
    teller.look()
    reserve(Ledger(settings.ledger), "run-1")
    told.now += 60
    told.busy = True
    assert not teller.look()
    told.busy = False
    assert teller.look()
    assert told.heard[-1].budget is not None
    assert told.heard[-1].budget.last_run == "run-1"
    told.now += 60
    assert not teller.look()


def test_changes_that_follow_closely_are_told_together(settings: PartySettings) -> None:
    told = Told()
    teller = told.teller(settings)
    teller.look()
    ledger = Ledger(settings.ledger)
    for number in range(3):
        reserve(ledger, f"run-{number}")
        told.now += 3
        assert not teller.look()
    told.now += 1
    assert teller.look()


@pytest.mark.parametrize("error", [NotRunningError("away"), ZeroDivisionError("a defect")])
def test_a_failure_is_only_a_later_try_ever_less_often(
    settings: PartySettings, error: Exception
) -> None:
    told = Told(broken=error)
    teller, start = told.teller(settings), told.now
    while told.now < start + 3600:
        assert not teller.look()
        told.now += 1
    passed = [one - start for one in told.tried]
    assert passed[:5] == [0, 30, 90, 210, 450]
    assert max(later - one for one, later in pairwise(passed)) <= 900
    told.broken = None
    told.now += 900
    assert teller.look()


def test_a_section_that_is_turned_off_is_not_told_again(settings: PartySettings) -> None:
    told = Told()
    teller = told.teller(settings)
    teller.look()
    set_policy(settings, ["status"])
    told.now += 900
    assert teller.look()
    assert [one.told for one in told.heard] == [
        ("status", "budget", "approvals", "models", "egress"),
        ("status",),
    ]
    set_policy(settings, [])
    told.now += 900
    assert not teller.look()
    assert len(told.heard) == 2


def test_models_that_are_due_are_deleted_though_nothing_is_told(settings: PartySettings) -> None:
    set_policy(settings, [])
    long_ago = datetime.now(UTC) - timedelta(days=settings.models.keep_days + 1)
    model = kept(source())
    facts = model.facts.model_copy(update={"published_at": long_ago})
    ModelShelf(
        settings.kept_models, Sealing(read_secret(settings.store_key)), keep=9, keep_days=3650
    ).put(facts, model.parameters)
    assert len(list(settings.kept_models.iterdir())) == 2
    assert not Told().teller(settings).look()
    assert list(settings.kept_models.iterdir()) == []


def test_a_damaged_model_keeps_nothing_else_from_being_told(settings: PartySettings) -> None:
    set_policy(settings, ["status"])
    settings.kept_models.mkdir()
    (settings.kept_models / "run-1.about").write_bytes(b"damaged")
    assert Told().teller(settings).look()


def test_a_node_that_has_not_joined_tells_nothing(tmp_path: Path) -> None:
    told = Told()
    assert not told.teller(initialise(tmp_path / "shop", "shop", 100)).look()
    assert told.heard == []


def test_a_sequence_grows_though_the_clock_stands_or_goes_back() -> None:
    ahead = telling.sequence_now() + 10**6
    assert telling.sequence_now(ahead) == ahead + 1


# Commands ----------------------------------------------------------------------------------------


def test_show_prints_exactly_what_would_be_sent(settings: PartySettings) -> None:
    shown = CliRunner().invoke(
        app, ["--home", str(settings.home), "disclosure", "show", "--format", "json"]
    )
    assert shown.exit_code == 0, shown.output
    printed = read_disclosure(json.dumps(json.loads(shown.stdout)).encode())
    told = Told()
    told.teller(load_settings(settings.home)).look()
    (sent,) = told.heard
    assert printed.model_copy(update={"sequence": sent.sequence}) == sent


def test_show_says_what_is_not_told(settings: PartySettings) -> None:
    run = ["--home", str(settings.home), "disclosure", "show"]
    shown = CliRunner().invoke(app, run).stdout
    assert "told: status, budget, approvals, models, egress; not told: limits, tags" in shown
    set_policy(settings, [])
    assert "nothing is ever sent" in CliRunner().invoke(app, run).stdout
