"""The ledger: hard stop, no refund after an intent, and every alteration found."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from privacy import accounting
from privacy.errors import BudgetExceeded, LedgerError, PrivacyError
from privacy.ledger import Ledger
from privacy.mechanism import Gaussian, SampledGaussian

ROOT = Path(__file__).parents[2]
TRAINING = SampledGaussian(sample_rate=0.15, noise_multiplier=4.0, steps=80)
ROUND = TRAINING.split(10)
RELEASE = Gaussian(noise_multiplier=5.0)
BOTH = (TRAINING, RELEASE)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = datetime(2024, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def make(path: Path, cap: float = 8.0) -> Ledger:
    return Ledger.create(
        path, party="bank", cap_epsilon=cap, cap_delta=1e-5, code_version="0.1.0", clock=Clock()
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return make(path)


def reserve(ledger: Ledger, run: str) -> None:
    ledger.reserve(run, plan_digest="0" * 64, purpose="retention", mechanisms=BOTH)


def reopened(path: Path) -> Ledger:
    """The file as another process would find it."""
    return Ledger(path)


def test_a_new_ledger_is_private_and_says_what_it_counts(ledger: Ledger, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    opened = ledger.entries()[0]
    assert opened.kind == "open"
    assert opened.body["party"] == "bank"
    assert "customer" in opened.body["unit_of_privacy"]
    assert "add or remove" in opened.body["adjacency"]
    assert (opened.body["cap_epsilon"], opened.body["cap_delta"]) == (8.0, 1e-5)
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


def test_a_reservation_counts_wholly_before_anything_ran(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    expected = accounting.epsilon(BOTH, 1e-5)
    assert 0 < expected < 8
    assert ledger.spent() == expected
    assert reopened(path).spent() == expected
    assert ledger.remaining() == 8.0 - expected
    assert ledger.has_run("run-1")
    assert not ledger.has_run("run-2")


def test_spend_composes_over_runs_and_a_run_alone_is_reported(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    reserve(ledger, "run-2")
    alone = accounting.epsilon(BOTH, 1e-5)
    assert ledger.spent() == accounting.epsilon((*BOTH, *BOTH), 1e-5)
    assert ledger.spent_by_run() == {"run-1": alone, "run-2": alone}
    assert ledger.spent() < 2 * alone


def test_a_run_over_the_budget_is_refused_and_writes_nothing(path: Path) -> None:
    ledger = make(path, cap=accounting.epsilon(BOTH, 1e-5))
    reserve(ledger, "run-1")
    before = path.read_bytes()
    with pytest.raises(BudgetExceeded, match="lifetime budget"):
        reserve(ledger, "run-2")
    assert path.read_bytes() == before
    assert not ledger.has_run("run-2")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_spend_that_is_no_number_is_refused(path: Path, bad: float) -> None:
    make(path)
    ledger = Ledger(path, epsilon=lambda mechanisms, delta: bad)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "run-1")


def test_an_untouched_reservation_can_be_given_back(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    ledger.refund("run-1")
    assert ledger.spent() == 0.0
    assert ledger.spent_by_run() == {"run-1": 0.0}
    with pytest.raises(LedgerError, match="used once"):
        reserve(ledger, "run-1")


def test_after_an_intent_nothing_is_refunded(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    whole = ledger.spent()
    ledger.intent("run-1", 1, ROUND)
    with pytest.raises(LedgerError, match="never refunded"):
        ledger.refund("run-1")
    ledger.close("run-1", "failed")
    assert ledger.spent() == whole
    with pytest.raises(LedgerError, match="no open reservation"):
        ledger.refund("run-1")


def test_a_whole_run_is_recorded_step_by_step(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    for number in range(1, 9):
        ledger.intent("run-1", number, ROUND)
        ledger.commit("run-1", number)
    ledger.intent("run-1", 9, RELEASE)
    ledger.commit("run-1", 9)
    ledger.close("run-1", "finished")
    run = ledger.state().runs["run-1"]
    assert run.state == "finished"
    assert run.committed == set(range(1, 10))
    assert ledger.verify() == ledger.head()


def test_intents_beyond_the_reservation_are_refused(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    for number in range(1, 9):
        ledger.intent("run-1", number, ROUND)
    for more in (ROUND, TRAINING.split(1), Gaussian(noise_multiplier=4.9)):
        with pytest.raises(BudgetExceeded, match="more than it reserved"):
            ledger.intent("run-1", 9, more)
    ledger.intent("run-1", 9, RELEASE)
    with pytest.raises(BudgetExceeded):
        ledger.intent("run-1", 9, RELEASE)


def test_steps_out_of_order_are_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no open reservation"):
        ledger.intent("run-1", 1, ROUND)
    reserve(ledger, "run-1")
    with pytest.raises(LedgerError, match="needs an intent"):
        ledger.commit("run-1", 1)
    ledger.intent("run-1", 1, ROUND)
    ledger.commit("run-1", 1)
    with pytest.raises(LedgerError, match="happens once"):
        ledger.commit("run-1", 1)
    with pytest.raises(LedgerError, match="at least one mechanism"):
        ledger.reserve("run-2", plan_digest="", purpose="", mechanisms=())


def test_the_operator_may_amend_the_cap_and_the_ledger_shows_it(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    ledger.amend(cap_epsilon=8.0, cap_delta=1e-5)
    assert [entry.kind for entry in ledger.entries()] == ["open", "reserve"]
    ledger.amend(cap_epsilon=ledger.spent() / 2, cap_delta=1e-5)
    assert ledger.entries()[-1].kind == "amend"
    assert ledger.remaining() == 0.0
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "run-2")


def test_a_clock_set_back_is_an_error(path: Path) -> None:
    clock = Clock()
    ledger = Ledger.create(
        path, party="b", cap_epsilon=8, cap_delta=1e-5, code_version="0", clock=clock
    )
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
    ledger.intent("run-1", 1, ROUND)
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
    for use in (ledger.verify, ledger.spent, lambda: ledger.commit("run-1", 1)):
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
    found.intent("run-1", 1, ROUND)
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
        found.intent("run-1", 1, ROUND)
    with pytest.raises(LedgerError, match="used once"):
        reserve(found, "run-1")
    reserve(found, "run-2")
    assert found.spent() == accounting.epsilon((*BOTH, *BOTH), 1e-5)
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
            ledger.intent("run-1", 1, ROUND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(LedgerError, match="never refunded"):
        ledger.refund("run-1")
    ledger.intent("run-1", 1, ROUND)
    ledger.verify()


def test_threads_that_reserve_at_once_never_pass_the_cap(path: Path) -> None:
    def count(mechanisms: object, delta: float) -> float:
        return float(len(mechanisms))  # type: ignore[arg-type]

    Ledger.create(path, party="b", cap_epsilon=5, cap_delta=1e-5, code_version="0")
    refused: list[str] = []

    def one(name: str) -> None:
        try:
            Ledger(path, epsilon=count).reserve(
                name, plan_digest="", purpose="", mechanisms=[RELEASE]
            )
        except BudgetExceeded:
            refused.append(name)

    threads = [threading.Thread(target=one, args=(f"run-{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert Ledger(path, epsilon=count).spent() == 5.0


WRITER = """
import sys
from pathlib import Path
from privacy.errors import BudgetExceeded
from privacy.ledger import Ledger
from privacy.mechanism import Gaussian
ledger = Ledger(Path(sys.argv[1]), epsilon=lambda mechanisms, delta: float(len(mechanisms)))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    run = f"{sys.argv[2]}-{number}"
    try:
        ledger.reserve(run, plan_digest="", purpose="", mechanisms=[Gaussian(5.0)])
    except BudgetExceeded:
        continue
    print(run, flush=True)
"""


def start_writer(path: Path, name: str, runs: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(runs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def count_runs(path: Path) -> Ledger:
    return Ledger(path, epsilon=lambda mechanisms, delta: float(len(mechanisms)))


def test_processes_that_reserve_at_once_never_pass_the_cap(path: Path) -> None:
    Ledger.create(path, party="b", cap_epsilon=30, cap_delta=1e-5, code_version="0")
    writers = [start_writer(path, name, 25) for name in ("a", "b")]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    granted = [run for writer in writers for run in writer.communicate()[0].split()]
    assert len(granted) == 30
    ledger = count_runs(path)
    assert ledger.spent() == 30.0
    assert set(ledger.spent_by_run()) == set(granted)
    ledger.verify()


def test_what_was_granted_before_kill_9_is_counted(path: Path) -> None:
    Ledger.create(path, party="b", cap_epsilon=1e6, cap_delta=1e-5, code_version="0")
    writer = start_writer(path, "a", 100_000)
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write("\n")
    writer.stdin.flush()
    granted = [writer.stdout.readline().strip() for _ in range(20)]
    writer.kill()
    granted += writer.communicate()[0].split()
    ledger = count_runs(path)
    assert set(granted) <= set(ledger.spent_by_run())
    assert ledger.spent() >= len(granted)
    ledger.reserve("after", plan_digest="", purpose="", mechanisms=[RELEASE])
    ledger.verify()


def test_the_file_is_plain_json_a_line(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1]["body"]["mechanisms"] == [mechanism.as_data() for mechanism in BOTH]
    assert lines[1]["previous"] == lines[0]["hash"]
    assert lines[1]["time"].endswith("+00:00")
