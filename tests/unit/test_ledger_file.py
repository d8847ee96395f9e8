"""The ledger's file: what it holds, and every way to damage it is found."""

from __future__ import annotations

import json
import resource
import signal
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from privacy.budget import Cap
from privacy.errors import LedgerError, PrivacyError
from privacy.hash_chain import HashChain
from privacy.ledger import Ledger
from tests.ledgers import (
    BOTH,
    DAY,
    DELTA,
    ROUND,
    START,
    Clock,
    commit,
    epsilon_of,
    intend,
    make,
    reopened,
    reserve,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return make(path)


def test_a_new_ledger_is_private_and_says_what_it_counts(ledger: Ledger, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    opened = ledger.entries()[0]
    assert opened.kind == "open"
    assert opened.body["party"] == "bank"
    assert "customer" in opened.body["unit_of_privacy"]
    assert "add or remove" in opened.body["adjacency"]
    assert (opened.body["cap_epsilon"], opened.body["cap_delta"]) == (8.0, DELTA)
    assert opened.body["order"] == Cap.of(8.0, DELTA).order
    assert opened.time.tzinfo is not None
    assert ledger.spent() == 0.0
    assert list(path.parent.iterdir()) == [path]


def test_a_ledger_is_never_overwritten(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="never overwritten"):
        make(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (float("inf"), 1e-5), (1, 0), (1, 1)])
def test_a_cap_that_is_no_budget_is_refused(path: Path, epsilon: float, delta: float) -> None:
    with pytest.raises(PrivacyError):
        Ledger.create(path, party="b", cap_epsilon=epsilon, cap_delta=delta, code_version="0")
    assert not path.exists()


def test_the_file_is_plain_json_a_line(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1]["body"]["mechanisms"] == [mechanism.as_data() for mechanism in BOTH]
    assert lines[1]["previous"] == lines[0]["hash"]
    assert lines[1]["time"].endswith("+00:00")


def test_a_clock_set_back_is_an_error(path: Path) -> None:
    clock = Clock()
    ledger = make(path, clock=clock)
    clock.now -= timedelta(hours=1)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="clock"):
        reserve(ledger, "run-1")
    assert path.read_bytes() == before


def test_a_ledger_open_to_others_is_refused(ledger: Ledger, path: Path) -> None:
    path.chmod(0o640)
    with pytest.raises(LedgerError, match="chmod 600"):
        ledger.spent()


def test_a_missing_ledger_and_a_link_are_refused(ledger: Ledger, path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(path.with_name("other")).spent()
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(link).spent()


def three_lines(ledger: Ledger, path: Path) -> list[bytes]:
    reserve(ledger, "run-1")
    intend(ledger)
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[0], lines[2], lines[1]], 2),
        (lambda lines: [lines[0], lines[1], lines[1], lines[2]], 3),
        (lambda lines: [lines[0], lines[1].replace(b"80", b"8 "), lines[2]], 2),
        (lambda lines: [lines[0], lines[1], lines[2].replace(b'"steps":10', b'"steps":11')], 3),
        (lambda lines: [*lines, b"\n"], 4),
        (lambda lines: [lines[0], lines[1], lines[2][:-30]], 3),
        (lambda lines: [lines[0], lines[1], lines[2][:-1]], 3),
    ],
)
def test_verify_names_the_line_that_was_changed(
    ledger: Ledger, path: Path, damage: object, line: int
) -> None:
    lines = three_lines(ledger, path)
    path.write_bytes(b"".join(damage(lines)))  # type: ignore[operator]
    with pytest.raises(LedgerError, match=rf"line {line}\b"):
        reopened(path).verify()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"[]\n", b"[" * 100_000 + b"\n", b'{"hash":NaN}\n', b"\xff\xfe\n"]
)
def test_a_file_that_is_no_ledger_is_refused(ledger: Ledger, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="line 1"):
        reopened(path).spent()


def test_whole_lines_cut_from_the_end_show_against_a_known_head(ledger: Ledger, path: Path) -> None:
    lines = three_lines(ledger, path)
    head = ledger.head()
    path.write_bytes(b"".join(lines[:2]))
    reopened(path).verify()  # the file alone cannot tell
    with pytest.raises(LedgerError, match="known from elsewhere"):
        reopened(path).verify(known=head)
    with pytest.raises(LedgerError, match="known from elsewhere"):
        ledger.spent()  # the open ledger remembers


def test_an_open_ledger_finds_a_change_in_lines_it_has_verified(ledger: Ledger, path: Path) -> None:
    lines = three_lines(ledger, path)
    ledger.verify()
    path.write_bytes(lines[0] + lines[1].replace(b'"steps":80', b'"steps":10') + lines[2])
    for use in (ledger.verify, ledger.spent, lambda: commit(ledger, "run-1", 1)):
        with pytest.raises(LedgerError, match="line 2"):
            use()


def test_an_impossible_step_is_found_though_its_hash_is_right(path: Path) -> None:
    ledger = make(path)
    with ledger._file.appending() as file:
        file.append("refund", {"run": "never"})
    with pytest.raises(LedgerError, match="line 2: run never has no open reservation"):
        reopened(path).verify()
    with ledger._file.appending() as file:
        file.append("refund", {})
    with pytest.raises(LedgerError, match="line 2"):
        reopened(path).spent()


def test_an_entry_of_a_newer_version_is_refused(path: Path) -> None:
    ledger = make(path)
    with ledger._file.appending() as file:
        file.append("forgive", {})
    with pytest.raises(LedgerError, match="newer version"):
        ledger.spent()


@pytest.mark.parametrize("kept", [1, 12, 200])
def test_an_interrupted_write_never_lowers_the_spend(ledger: Ledger, path: Path, kept: int) -> None:
    reserve(ledger, "run-1")
    spent = ledger.spent()
    reserve(ledger, "run-2")
    lines = path.read_bytes().splitlines(keepends=True)
    cut = b"".join(lines[:2]) + lines[2][:kept]
    path.write_bytes(cut)

    found = reopened(path)
    assert found.spent() >= spent
    with pytest.raises(LedgerError, match="line 3: cut off"):
        found.verify()
    with pytest.raises(LedgerError, match="never refunded"):
        found.refund("run-1")
    before = found.spent()
    reserve(found, "run-3")
    found.verify()
    assert found.spent() > before
    assert path.read_bytes().startswith(cut)


def test_an_entry_that_lacks_only_its_line_end_counts(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    spent = ledger.spent()
    path.write_bytes(path.read_bytes()[:-1])
    found = reopened(path)
    assert found.spent() == spent
    with pytest.raises(LedgerError, match="line 2: cut off"):
        found.verify()
    intend(found)
    found.verify()


def test_an_interrupted_reservation_that_can_be_read_counts_as_spent(
    ledger: Ledger, path: Path
) -> None:
    reserve(ledger, "run-1")
    whole = ledger.spent()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"#")
    found = reopened(path)
    assert found.spent() == whole
    with pytest.raises(LedgerError, match="no open reservation"):
        intend(found)
    with pytest.raises(LedgerError, match="used once"):
        reserve(found, "run-1")
    reserve(found, "run-2")
    assert found.spent() == epsilon_of(*BOTH, *BOTH)
    assert found.verify() == found.head()
    path.write_bytes(path.read_bytes().replace(b"#", b"%"))
    with pytest.raises(LedgerError, match="line 2"):
        reopened(path).verify()


def test_a_full_disk_is_an_error_and_what_was_written_still_counts(
    ledger: Ledger, path: Path
) -> None:
    reserve(ledger, "run-1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, hard))
    try:
        with pytest.raises(LedgerError, match="cannot be used"):
            intend(ledger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(LedgerError, match="never refunded"):
        ledger.refund("run-1")
    # What the cut line began is not known, so the run can begin nothing more.
    with pytest.raises(LedgerError, match="a crash interrupted this run"):
        intend(ledger)
    whole = ledger.spent()
    ledger.close("run-1", "failed")
    assert ledger.spent() == whole
    ledger.verify()


def test_a_crash_at_any_byte_while_a_cut_line_is_sealed_leaves_a_usable_ledger(
    ledger: Ledger, path: Path
) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    cut = path.read_bytes()[:-100]
    path.write_bytes(cut)
    whole = reopened(path).spent()
    reopened(path).close("run-1", "failed")
    sealed = path.read_bytes()
    assert sealed.startswith(cut)
    for end in range(len(cut), len(sealed)):
        path.write_bytes(sealed[:end])
        found = reopened(path)
        assert found.spent() == whole
        if found.state().runs["run-1"].state == "reserved":
            found.close("run-1", "failed")
        found.amend(cap_epsilon=7.0, cap_delta=1e-5)
        assert found.spent() == whole
        found.verify()
        assert path.read_bytes().startswith(sealed[:end])


def test_a_ledger_of_another_format_is_refused_and_says_what_to_do(path: Path) -> None:
    HashChain(path, b"fedtags ledger 1").create("open", {"format": 1, "party": "bank"})
    with pytest.raises(LedgerError, match="reads ledgers of format 3; use the version that wrote"):
        Ledger(path).spent()


@pytest.mark.parametrize("order", [1, 2.5, 9, "8", None])
def test_a_cap_at_an_order_that_is_not_known_is_refused(path: Path, order: object) -> None:
    ledger = make(path)
    with ledger._file.appending() as file:
        file.append("amend", {"cap_epsilon": 8.0, "cap_delta": DELTA, "order": order})
    with pytest.raises(LedgerError, match="line 2"):
        ledger.spent()


# Interrupted writes ------------------------------------------------------------------------------


def tear(path: Path) -> None:
    """What a crash leaves that comes in the middle of writing a line."""
    with path.open("ab") as file:
        file.write(b'{"body":{"mecha')


@pytest.mark.parametrize("sealed", [False, True])
def test_a_run_whose_intent_a_torn_line_may_have_been_stays_wholly_charged(
    ledger: Ledger, path: Path, sealed: bool
) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    tear(path)
    found = reopened(path)
    if sealed:
        commit(found, "run-1", 1)
    assert found.spent() == epsilon_of(*BOTH)
    found.close("run-1", "failed")
    assert found.spent() == epsilon_of(*BOTH)
    assert Ledger(path, Clock(START + 5 * DAY)).spent() == epsilon_of(*BOTH)
    found.verify()


def test_a_torn_line_does_not_charge_what_had_ended_before_it(path: Path) -> None:
    clock = Clock()
    ledger = make(path, clock=clock)
    for run in ("refunded", "closed", "expired"):
        reserve(ledger, run)
    ledger.refund("refunded")
    ledger.close("closed", "failed")
    clock.now += 2 * DAY
    reserve(ledger, "open")  # by its time, the reservation before has expired
    assert ledger.spent() == epsilon_of(*BOTH)
    tear(path)
    assert ledger.spent() == epsilon_of(*BOTH)
    ledger.close("open", "failed")
    assert ledger.spent() == epsilon_of(*BOTH)


def test_a_torn_line_counts_for_a_run_that_was_open_when_it_was_written(path: Path) -> None:
    """By the time that the line is sealed the run has expired; it had not when it was torn."""
    clock = Clock()
    ledger = make(path, clock=clock)
    reserve(ledger, "run-1")
    tear(path)
    clock.now += 2 * DAY
    reserve(ledger, "run-2")
    assert ledger.spent() == epsilon_of(*BOTH, *BOTH)
    assert reopened(path).spent() == epsilon_of(*BOTH, *BOTH)


def test_a_torn_reservation_is_charged_for_good(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    path.write_bytes(path.read_bytes()[:-1] + b"#")
    found = Ledger(path, Clock(START + 400 * DAY))
    assert found.spent() == epsilon_of(*BOTH)
    found.amend(cap_epsilon=9.0, cap_delta=DELTA)
    assert found.state().runs["run-1"].state == "interrupted"
    assert found.spent() == epsilon_of(*BOTH)


def test_torn_reservations_of_one_run_count_each(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    line = path.read_bytes().splitlines()[-1]
    for _ in range(2):
        with path.open("ab") as file:
            file.write(line + b"#")
        ledger.amend(cap_epsilon=9.0 + len(ledger.entries()), cap_delta=DELTA)
    ledger.close("run-1", "failed")
    assert ledger.spent() == epsilon_of(*BOTH, *BOTH, *BOTH)
    assert len(ledger.state().runs) == 3


def test_a_torn_extension_that_can_be_read_counts_as_charged(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    ledger.extend("run-1", [ROUND])
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"#")
    found = reopened(path)
    assert found.spent() == epsilon_of(*BOTH, ROUND)
    found.close("run-1", "failed")  # seals the line first
    assert found.spent() == reopened(path).spent() == epsilon_of(*BOTH, ROUND)
    assert found.verify() == found.head()
    for end in range(len(data) - 400, len(data) - 1):
        path.write_bytes(data[:end])
        assert reopened(path).spent() in (epsilon_of(*BOTH), epsilon_of(*BOTH, ROUND))
