"""A person's decision in a ledger: signed by the party, for one plan, at one place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import DecidedMeanwhile, LedgerError
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.ledger_decisions import DecisionTerms, signed_body
from privacy.ledger_state import LedgerState
from tests.ledgers import BOTH, DAY, START, Clock, make, reopened, reserve

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
PLAN = "0" * 64  # the digest under which tests.ledgers.reserve reserves
APPROVAL = DecisionTerms(
    approved=True,
    plan_digest=PLAN,
    plan="churn",
    requester="ab12-cd34-ef56-7890-abcd",
    person="Li Wei 李伟",
    reason="as agreed in the contract",
    schema_digest="5" * 64,
    runs=2,
    valid_until=START + 30 * DAY,
)
REFUSAL = DecisionTerms(
    approved=False,
    plan_digest=PLAN,
    plan="churn",
    requester=APPROVAL.requester,
    person="Ana",
    reason="no contract",
)


def changed(terms: DecisionTerms, **fields: Any) -> DecisionTerms:
    return DecisionTerms(**{**vars(terms), **fields})


def rewrite(path: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    """What somebody does who can write the file but has no key: edit entries, then compute every
    hash anew, so that the chain itself is sound."""
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    edit(entries)
    previous, lines = "0" * 64, []
    for number, entry in enumerate(entries):
        entry.pop("hash", None)
        entry |= {"sequence": number, "previous": previous}
        text = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        previous = hashlib.sha256(b"fedtags ledger 1\0" + text).hexdigest()
        whole = json.dumps(entry | {"hash": previous}, sort_keys=True, separators=(",", ":"))
        lines.append(whole.encode())
    path.write_bytes(b"\n".join(lines) + b"\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_a_decision_is_read_back_as_it_was_made(path: Path) -> None:
    make(path).decide(KEY, APPROVAL, seen=None)
    ledger = reopened(path)
    found = ledger.state().decision_on(PLAN)
    assert found is not None
    assert {name: getattr(found, name) for name in vars(APPROVAL)} == vars(APPROVAL)
    assert ledger.state().decision_on("1" * 64) is None
    ledger.verify(public=KEY.public)


def test_the_newest_decision_about_a_plan_counts(path: Path) -> None:
    ledger = make(path)
    first = ledger.decide(KEY, APPROVAL, seen=None)
    second = ledger.decide(KEY, REFUSAL, seen=first)
    other = changed(APPROVAL, plan_digest="1" * 64)
    ledger.decide(KEY, other, seen=None)
    assert ledger.state().decision_on(PLAN) == second
    assert not second.approved
    assert [one.approved for one in ledger.state().decisions] == [True, False, True]


def test_a_decision_that_the_person_had_not_seen_stops_theirs(path: Path) -> None:
    ledger = make(path)
    first = ledger.decide(KEY, APPROVAL, seen=None)
    before = path.read_bytes()
    with pytest.raises(DecidedMeanwhile):
        ledger.decide(KEY, REFUSAL, seen=None)
    assert path.read_bytes() == before
    ledger.decide(KEY, REFUSAL, seen=first)
    with pytest.raises(DecidedMeanwhile):
        ledger.decide(KEY, APPROVAL, seen=first)


def test_runs_count_from_the_approval_on_and_one_given_back_untouched_does_not(
    path: Path,
) -> None:
    ledger = make(path)
    reserve(ledger, "before", BOTH[1:])
    decision = ledger.decide(KEY, APPROVAL, seen=None)
    assert ledger.state().runs_after(decision) == 0
    reserve(ledger, "run-1", BOTH[1:])
    reserve(ledger, "run-2", BOTH[1:])
    assert ledger.state().runs_after(decision) == 2
    ledger.refund("run-2")
    ledger.close("run-1", outcome="failed")
    assert reopened(path).state().runs_after(decision) == 1


def test_a_reservation_asks_its_permit_under_the_lock_before_anything_is_written(
    path: Path,
) -> None:
    ledger = make(path)
    before = path.read_bytes()

    def forbid(state: LedgerState) -> None:
        assert state.party == "bank"
        raise DecidedMeanwhile("no")

    with pytest.raises(DecidedMeanwhile):
        ledger.reserve(
            "run",
            plan_digest=PLAN,
            plan="churn",
            purpose="retention",
            mechanisms=BOTH,
            valid_for=DAY,
            permit=forbid,
        )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"person": ""},
        {"person": " "},
        {"reason": "r" * 501},
        {"reason": "two\nlines"},
        {"reason": "\x1b[2J"},
        {"runs": 0},
        {"runs": 10_001},
        {"valid_until": None},
        {"schema_digest": ""},
        {"plan_digest": "abc"},
        {"approved": False},
    ],
)
def test_terms_outside_their_bounds_are_refused_and_nothing_is_written(
    path: Path, fields: dict[str, Any]
) -> None:
    ledger = make(path)
    before = path.read_bytes()
    with pytest.raises(LedgerError):
        ledger.decide(KEY, changed(APPROVAL, **fields), seen=None)
    assert path.read_bytes() == before


def test_a_decision_after_a_torn_line_is_signed_for_its_place_behind_the_seal(path: Path) -> None:
    make(path)
    with path.open("ab") as file:
        file.write(b'{"body":{"approv')
    decision = reopened(path).decide(KEY, APPROVAL, seen=None)
    again = Ledger(path, Clock(START + timedelta(hours=2)))
    assert again.state().decision_on(PLAN) == decision
    again.verify(public=KEY.public)


def test_another_keys_signature_is_a_forgery(path: Path) -> None:
    make(path).decide(OTHER, APPROVAL, seen=None)
    ledger = reopened(path)
    decision = ledger.state().decision_on(PLAN)
    assert decision is not None
    with pytest.raises(LedgerError, match="forged"):
        decision.check_signature(KEY.public)
    with pytest.raises(LedgerError, match="forged"):
        ledger.verify(public=KEY.public)
    ledger.verify()  # without the key, only the chain can be judged


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("runs", 100),
        ("valid_until", (START + 300 * DAY).isoformat(timespec="microseconds")),
        ("plan_digest", "1" * 64),
        ("plan", "other"),
        ("requester", "ffff-cd34-ef56-7890-abcd"),
        ("person", "Director"),
        ("reason", "another"),
        ("schema_digest", "6" * 64),
        ("signature", "0" * 128),
    ],
)
def test_an_edited_decision_is_a_forgery_although_the_chain_is_sound(
    path: Path, field: str, value: object
) -> None:
    make(path).decide(KEY, APPROVAL, seen=None)

    def edit(entries: list[dict[str, Any]]) -> None:
        assert entries[1]["body"][field] != value
        entries[1]["body"][field] = value

    rewrite(path, edit)
    with pytest.raises(LedgerError, match="forged"):
        reopened(path).verify(public=KEY.public)


def test_a_refusal_turned_into_an_approval_is_no_decision(path: Path) -> None:
    make(path).decide(KEY, REFUSAL, seen=None)
    rewrite(path, lambda entries: entries[1].update(kind="approve"))
    with pytest.raises(LedgerError, match="line 2: an approval admits"):
        reopened(path).state()


def test_an_approval_cannot_be_repeated_or_moved_within_its_ledger(path: Path) -> None:
    ledger = make(path)
    ledger.decide(KEY, APPROVAL, seen=None)
    reserve(ledger, "run-1", BOTH[1:])
    whole = path.read_bytes()
    rewrite(path, lambda entries: entries.append(dict(entries[1], time=entries[-1]["time"])))
    with pytest.raises(LedgerError, match="line 4: a decision that was made at another place"):
        reopened(path).state()
    path.write_bytes(whole)

    def move(entries: list[dict[str, Any]]) -> None:
        entries[1], entries[2] = entries[2], entries[1]
        entries[2]["time"], entries[1]["time"] = entries[1]["time"], entries[2]["time"]

    rewrite(path, move)
    with pytest.raises(LedgerError, match="another place"):
        reopened(path).state()


def test_an_approval_of_another_party_or_another_ledger_is_none_here(
    path: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    make(elsewhere, cap=4.0).decide(KEY, APPROVAL, seen=None)
    copied = json.loads(elsewhere.read_bytes().splitlines()[1])
    make(path)
    rewrite(path, lambda entries: entries.append(copied))
    with pytest.raises(LedgerError, match="line 2: a decision that was made at another place"):
        reopened(path).state()
    path.unlink()
    ledger = make(path)
    head = ledger.head().hash
    body = signed_body(
        OTHER, APPROVAL, party="shop", moment=START + timedelta(seconds=9), previous=head
    )
    time = (START + timedelta(seconds=9)).isoformat(timespec="microseconds")
    rewrite(path, lambda entries: entries.append({"kind": "approve", "body": body, "time": time}))
    with pytest.raises(LedgerError, match="line 2: a decision of another party"):
        reopened(path).state()


@pytest.mark.parametrize("change", [{"runs": True}, {"plan": None}, {"plan_digest": 7}, {"x": 1}])
def test_a_decision_with_fields_of_another_form_is_refused(
    path: Path, change: dict[str, Any]
) -> None:
    make(path).decide(KEY, APPROVAL, seen=None)
    rewrite(path, lambda entries: entries[1]["body"].update(change))
    with pytest.raises(LedgerError, match="line 2"):
        reopened(path).state()
