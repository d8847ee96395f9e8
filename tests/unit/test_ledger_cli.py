"""`fedtags-party ledger show|verify|export`: what a reviewer reads, and what damage looks like."""

from __future__ import annotations

import fcntl
import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dp_accounting.rdp import compute_epsilon
from typer.testing import CliRunner, Result

from party_client.cli import app
from party_client.manifest_file import keep_manifest
from party_client.settings import load_settings
from party_client.setup import initialise
from privacy import accounting
from privacy.errors import ConfigError, FedtagsError, LedgerError
from privacy.identity import SigningKey
from privacy.ledger import WEIGHTS_ROUND, Ledger, LedgerPosition, Provenance
from privacy.manifest import FederationManifest
from privacy.mechanism import Gaussian, SampledGaussian
from tests.ledgers import commit

TRAINING, EVALUATION = SampledGaussian(0.25, 4.0, 40), Gaussian(5.0)
WEIGHTS = Gaussian(9.0)
RESENT = "not charged again"
ROUND = TRAINING.split(10)
HOW = Provenance(
    family="logistic",
    engine="factorised",
    dataset="0f" * 32,
    sampler="Poisson",
    rng="AES",
    code_version="1.2.3",
    recipients=("retailer", "shop"),
)
ROOT = Path(__file__).parents[2]
FINISHED = "market-churn-20260102-101112-a1b2c3"


@dataclass
class Book:
    """A party's home and its ledger, with a clock that a test turns."""

    home: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(seconds=1))

    @property
    def ledger(self) -> Ledger:
        return Ledger(load_settings(self.home).ledger, clock=self.tick)

    def tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def run(self, name: str, rounds: int, end: str = "", purpose: str = "marketing") -> None:
        ledger = self.ledger
        ledger.reserve(
            name,
            plan_digest="d" * 64,
            plan="market-churn",
            purpose=purpose,
            mechanisms=(TRAINING, EVALUATION),
            valid_for=timedelta(hours=1),
        )
        for number in range(1, rounds + 1):
            ledger.intent(name, number, ROUND, HOW)
            commit(ledger, name, number)
        if end == "finished":
            ledger.intent(name, 0, EVALUATION, HOW)
            commit(ledger, name, 0)
        if end == "refunded":
            ledger.refund(name)
        elif end == "finished" or end == "failed":
            ledger.close(name, "finished" if end == "finished" else "failed")


@pytest.fixture
def book(tmp_path: Path) -> Book:
    initialise(tmp_path / "bank", "bank", 6000)
    return Book(tmp_path / "bank")


@pytest.fixture
def filled(book: Book) -> Book:
    book.run(FINISHED, 4, "finished")
    book.run("lost-a-party", 1, "failed", purpose="retention")
    book.run("changed-its-mind", 0, "refunded")
    book.run("under-way", 1)
    book.ledger.intent("under-way", 2, ROUND, HOW)
    return book


def call(home: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--home", str(home), *arguments])


def output(home: Path, *arguments: str) -> str:
    result = call(home, *arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def data(home: Path, *arguments: str) -> Any:
    return json.loads(output(home, *arguments, "--format", "json"))


def failed(home: Path, *arguments: str) -> FedtagsError:
    result = call(home, *arguments)
    assert isinstance(result.exception, FedtagsError), result.stdout
    return result.exception


def words(text: str) -> str:
    return " ".join(text.split())


def test_show_says_what_each_run_is_charged_and_how_the_budget_is_held(filled: Book) -> None:
    shown = data(filled.home, "ledger", "show")
    ledger = filled.ledger
    assert [(one["run"], one["status"], one["epsilon"]) for one in shown["runs"]] == [
        (FINISHED, "finished", ledger.spent_by_run()[FINISHED]),
        ("lost-a-party", "failed", ledger.spent_by_run()["lost-a-party"]),
        ("changed-its-mind", "refunded", 0.0),
        ("under-way", "open", ledger.spent_by_run()["under-way"]),
    ]
    assert shown["epsilon_spent"] == ledger.spent()
    assert shown["budget_used"] == ledger.used()
    assert (shown["delta"], shown["epsilon_budget"]) == (1 / 60_000, 8.0)
    assert shown["unit_of_privacy"] == "one customer at one party"
    assert shown["adjacency"] == "add or remove one customer"

    text = words(output(filled.home, "ledger", "show"))
    spent = ledger.spent_by_run()[FINISHED]
    assert f"{FINISHED} marketing {spent + 0.0005:.3f} finished" in text  # rounded up, never down
    assert "epsilon 8, over all runs and purposes" in text
    order = ledger.state().cap.order
    assert f"a run beyond 100 % is refused: Rényi filter, order {order}" in text
    assert "one customer at this party, added or removed, at delta 1.7e-05" in text


def test_show_lists_every_entry_in_plain_words_newest_last(filled: Book) -> None:
    shown = data(filled.home, "ledger", "show")["entries"]
    said = [(one["run"], one["what"], one["status"]) for one in shown]
    order = filled.ledger.state().cap.order
    reserved = "reserved: 40 training steps, 1 release of noised counts"
    rounds = [(FINISHED, f"round {one}: 10 training steps", "released") for one in range(1, 5)]
    opened = f"opened: lifetime budget epsilon 8 at delta 1.7e-05, order {order}"
    assert said[0] == ("ledger", opened, "")
    assert said[1:] == [
        (FINISHED, reserved, "finished"),
        *rounds,
        (FINISHED, "evaluation: noised counts", "released"),
        (FINISHED, "run finished", ""),
        ("lost-a-party", reserved, "failed"),
        ("lost-a-party", "round 1: 10 training steps", "released"),
        ("lost-a-party", "run failed", ""),
        ("changed-its-mind", reserved, "refunded"),
        ("changed-its-mind", "given back: no data were touched for it", "not charged"),
        ("under-way", reserved, "open"),
        ("under-way", "round 1: 10 training steps", "released"),
        ("under-way", "round 2: 10 training steps", "under way"),
    ]
    times = [one["time"] for one in shown]
    assert times == sorted(times)
    lines = output(filled.home, "ledger", "show").splitlines()
    assert max(len(line) for line in lines) <= 80
    assert sum(FINISHED in line for line in lines) == 2  # never cut: its heading, and its charge


def test_an_expired_run_and_an_unreleased_round_are_told_from_one_under_way(book: Book) -> None:
    # The command's clock is this machine's: the entries lie two hours in the past.
    settings = load_settings(book.home)
    settings.ledger.unlink()
    book.now = datetime.now(UTC) - timedelta(hours=2)
    Ledger.create(
        settings.ledger,
        party="bank",
        cap_epsilon=8.0,
        cap_delta=1 / 60_000,
        code_version="0",
        clock=book.tick,
    )
    book.run("forgotten", 1)
    book.ledger.intent("forgotten", 2, ROUND, HOW)
    shown = data(book.home, "ledger", "show")
    assert [one["status"] for one in shown["entries"][1:]] == [
        "expired",
        "released",
        "charged, not known to have been released",
    ]
    (run,) = shown["runs"]
    assert (run["status"], run["expires"]) == ("expired", None)
    assert run["epsilon"] == accounting.epsilon([ROUND, ROUND], 1 / 60_000)


def test_what_was_sent_again_and_what_was_drawn_again_are_told_apart(book: Book) -> None:
    book.run("hurt", 1)
    ledger = book.ledger
    ledger.commit("hurt", 1, 2, ["shop", "bank", "airline"])
    ledger.intent("hurt", 2, ROUND, HOW)
    ledger.extend("hurt", [ROUND])  # a crash lost what had been drawn
    ledger.intent("hurt", 2, ROUND, HOW)
    commit(ledger, "hurt", 2, 3)
    ledger.extend("hurt", [EVALUATION])
    ledger.close("hurt", "failed")
    shown = data(book.home, "ledger", "show")["entries"][2:-1]
    more = "reserved more, for what was lost and is drawn again: "
    assert [(one["what"], one["status"]) for one in shown] == [
        ("round 1: 10 training steps", "released"),
        ("round 1: the same values sent again, under fresh masks, for airline, bank, shop", RESENT),
        ("round 2: 10 training steps", "charged, not known to have been released"),
        (more + "10 training steps", ""),
        ("round 2: 10 training steps", "released"),
        (more + "1 release of noised counts", ""),
    ]


@pytest.mark.parametrize("parties", [["bank", "shop"], ["airline", "bank", "shop"]])
def test_a_run_of_two_parties_is_shown_with_what_that_means(book: Book, parties: list[str]) -> None:
    book.run("small", 1)
    book.ledger.commit("small", 1, 2, parties)
    told = "only differential privacy protects it from the other party"
    (run,) = data(book.home, "ledger", "show")["runs"]
    status = data(book.home, "status")
    for said in (
        run["two_party"] or "",
        words(output(book.home, "ledger", "show")),
        words(output(book.home, "ledger", "show", "--run", "small")),
        status["last_run_two_party"] or "",
        words(output(book.home, "status")),
    ):
        assert (told in said) == (len(parties) == 2)


def test_status_says_who_has_signed_the_manifest(book: Book) -> None:
    assert data(book.home, "status")["manifest"] == []
    keys = {name: SigningKey.generate() for name in ("bank", "shop")}
    manifest = FederationManifest("market", {name: key.public for name, key in keys.items()})
    signatures = {name: manifest.sign(key) for name, key in keys.items()}
    keep_manifest(load_settings(book.home).manifest, manifest, signatures)
    assert data(book.home, "status")["manifest"] == ["bank", "shop"]


def test_noised_weights_are_named(book: Book) -> None:
    ledger = book.ledger
    ledger.reserve(
        "weighed",
        plan_digest="d" * 64,
        plan="market-churn",
        purpose="marketing",
        mechanisms=(TRAINING, EVALUATION, WEIGHTS),
        valid_for=timedelta(hours=1),
    )
    ledger.intent("weighed", WEIGHTS_ROUND, WEIGHTS, HOW)
    commit(ledger, "weighed", WEIGHTS_ROUND)
    shown = data(book.home, "ledger", "show", "--run", "weighed")
    assert [(one["what"], one["status"]) for one in shown["entries"]] == [
        ("reserved: 40 training steps, 2 releases of noised counts", "open"),
        ("weights: this party's noised size", "released"),
    ]
    assert [one["step"] for one in shown["provenance"]] == ["weights"]


def test_one_run_is_shown_with_how_it_was_computed(filled: Book) -> None:
    shown = data(filled.home, "ledger", "show", "--run", "lost-a-party")
    assert {one["run"] for one in shown["entries"]} == {"lost-a-party"}
    assert [one["run"] for one in shown["runs"]] == ["lost-a-party"]
    assert shown["provenance"] == [{"step": "training", **HOW.as_data()}]
    text = words(output(filled.home, "ledger", "show", "--run", "lost-a-party"))
    assert "recipients retailer, shop" in text
    assert FINISHED not in text
    error = failed(filled.home, "ledger", "show", "--run", "no-such")
    assert isinstance(error, ConfigError)
    assert "ledger show" in str(error)


def test_lost_entries_and_a_changed_budget_are_shown(filled: Book) -> None:
    ledger = filled.ledger
    here = ledger.position()
    more = accounting.rdp([TRAINING])
    curve = tuple(one + two for one, two in zip(here.rdp, more, strict=True))
    ledger.charge_gap(LedgerPosition(here.position + 5, "a" * 64, here.time, curve))
    ledger.amend(cap_epsilon=10.0, cap_delta=1e-6)
    said = data(filled.home, "ledger", "show")["entries"][-2:]
    assert [(one["run"], one["what"], one["status"]) for one in said] == [
        ("ledger", "lost entries, known from other parties' heads", "charged"),
        (
            "ledger",
            "changed by the operator: lifetime budget epsilon 10 at delta 1.0e-06, order "
            f"{ledger.state().cap.order}",
            "",
        ),
    ]
    assert "1 gap, charged by what other members' heads showed" in words(
        output(filled.home, "ledger", "show")
    )


def test_an_interrupted_write_is_shown(filled: Book) -> None:
    path = load_settings(filled.home).ledger
    path.write_bytes(path.read_bytes() + b'{"body":{"mech')
    commit(filled.ledger, "under-way", 2)
    shown = data(filled.home, "ledger", "show")
    torn = next(one for one in shown["entries"] if "interrupted" in one["what"])
    assert (torn["run"], torn["status"]) == ("ledger", "counted")
    assert shown["runs"][-1]["status"] == "open, charged whole"
    assert shown["runs"][0]["status"] == "finished"
    assert shown["runs"][-1]["epsilon"] == accounting.epsilon([TRAINING, EVALUATION], 1 / 60_000)


def test_a_fresh_ledger_has_no_run(book: Book) -> None:
    assert "no run yet" in output(book.home, "ledger", "show")
    assert data(book.home, "ledger", "show")["budget_used"] == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_reading_waits_for_no_reader_and_writes_nothing(filled: Book, command: str) -> None:
    path = load_settings(filled.home).ledger
    before = path.read_bytes()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # a command that wanted to write would wait for ever
        output(filled.home, "ledger", command)
    assert path.read_bytes() == before
    assert {one.name for one in path.parent.iterdir()} == {
        "party.toml",
        "policy.toml",
        "keys",
        "ledger.jsonl",
    }


def test_verify_prints_the_head_and_finds_it_again(filled: Book) -> None:
    shown = data(filled.home, "ledger", "verify")
    here = filled.ledger.position()
    assert (shown["position"], shown["hash"]) == (here.position, here.hash)
    assert (shown["verified"], shown["known_found"]) == (True, None)
    text = output(filled.home, "ledger", "verify")
    assert f"head {here.position}:{here.hash}" in text
    known = f"{here.position}:{here.hash}"
    filled.ledger.close("under-way", "failed")
    assert data(filled.home, "ledger", "verify", "--known", known)["known_found"] is True
    assert "holds the head given" in output(filled.home, "ledger", "verify", "--known", known)


def test_a_cut_tail_shows_against_a_known_head(filled: Book) -> None:
    here = filled.ledger.position()
    path = load_settings(filled.home).ledger
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    output(filled.home, "ledger", "verify")  # by itself the file is whole
    error = failed(filled.home, "ledger", "verify", "--known", f"{here.position}:{here.hash}")
    assert isinstance(error, LedgerError)
    assert "restore" in str(error)


@pytest.mark.parametrize(
    "known",
    [
        "",
        "7",
        ":",
        "7:",
        "7:ab",
        f"-1:{'a' * 64}",
        f"7:{'A' * 64}",
        f"7:{'a' * 64} ",
        "x:" + "a" * 64,
    ],
)
def test_a_head_in_another_form_is_a_wrong_command(filled: Book, known: str) -> None:
    error = failed(filled.home, "ledger", "verify", "--known", known)
    assert isinstance(error, ConfigError)
    assert "POSITION:HASH" in str(error)


def changed_byte(content: bytes) -> bytes:
    return content.replace(b'"steps":40', b'"steps":41', 1)


def without_row(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:3] + lines[4:])


def cut_in_the_middle(content: bytes) -> bytes:
    return content[:-20]


def not_a_ledger(content: bytes) -> bytes:
    return b"\x00\xff" * 50


@pytest.mark.parametrize("command", ["show", "verify", "export"])
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (changed_byte, "line 2"),
        (without_row, "line 4"),
        (cut_in_the_middle, "line 23"),
        (not_a_ledger, "line 1"),
        (lambda content: b"", "line 1"),
    ],
)
def test_damage_is_an_error_that_names_the_line(
    filled: Book, command: str, damage: Callable[[bytes], bytes], line: str
) -> None:
    path = load_settings(filled.home).ledger
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    if damage is cut_in_the_middle and command == "show":
        # What a crash leaves: shown with the worst assumed, and the next append seals it.
        runs = data(filled.home, "ledger", "show")["runs"]
        assert runs[-1]["status"] == "open, charged whole"
        return
    error = failed(filled.home, "ledger", command)
    assert isinstance(error, LedgerError)
    assert error.exit_code == 21
    assert line in str(error)


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_a_missing_or_open_ledger_says_what_to_do(book: Book, command: str) -> None:
    path = load_settings(book.home).ledger
    path.chmod(0o644)
    assert "chmod 600" in str(failed(book.home, "ledger", command))
    path.unlink()
    error = failed(book.home, "ledger", command)
    assert isinstance(error, LedgerError)
    assert "check that it exists" in str(error)
    assert "init" in str(failed(book.home.parent / "nowhere", "ledger", command))


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def recomputed(export: Path) -> float:
    """By the program that the how-to page gives a reviewer: dp_accounting alone."""
    page = (ROOT / "docs/how-to/inspect-the-budget.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0]
    assert "fedtags" not in program
    command = [sys.executable, "-I", "-c", program, str(export)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(shown[2]) == json.loads(export.read_text())["epsilon_spent"]
    return float(shown[0])


def test_an_export_can_be_recomputed_without_fedtags(filled: Book, tmp_path: Path) -> None:
    export = tmp_path / "ledger.json"
    output(filled.home, "ledger", "export", "--output", str(export))
    document = json.loads(export.read_text())
    lines = load_settings(filled.home).ledger.read_bytes().splitlines()
    assert [canonical(one) for one in document["entries"]] == lines
    assert "'fedtags ledger 1'" in document["hash_rule"]
    previous = "0" * 64
    for entry in document["entries"]:
        rest = {name: value for name, value in entry.items() if name != "hash"}
        assert entry["previous"] == previous
        previous = hashlib.sha256(b"fedtags ledger 1\0" + canonical(rest)).hexdigest()
        assert entry["hash"] == previous
    assert document["head"]["hash"] == previous
    assert document["head"]["position"] == filled.ledger.position().position

    assert document["epsilon_spent_by"] == "PLD"
    assert recomputed(export) == pytest.approx(document["epsilon_spent"], rel=1e-6)
    charged = {one["run"]: len(one["charged"]) for one in document["runs"]}
    assert charged == {FINISHED: 5, "lost-a-party": 1, "changed-its-mind": 0, "under-way": 2}
    assert document["epsilon_spent"] == filled.ledger.spent()
    lifetime = document["lifetime_budget"]
    assert lifetime["share_used"] == lifetime["charged"] / lifetime["allowance"]
    assert document["unit_of_privacy"] == "one customer at one party"
    assert document["adjacency"] == "add or remove one customer"


def test_an_export_with_a_gap_says_that_its_epsilon_is_by_rdp(filled: Book) -> None:
    here = filled.ledger.position()
    curve = tuple(one + 0.25 for one in here.rdp)
    filled.ledger.charge_gap(LedgerPosition(here.position + 1, "b" * 64, here.time, curve))
    document = json.loads(output(filled.home, "ledger", "export"))
    assert document["epsilon_spent_by"] == "RDP, because of a gap"
    (gap,) = document["gaps"]
    runs = filled.ledger.state().charged()[:-1]
    total = [one + two for one, two in zip(accounting.rdp(runs), gap["rdp"], strict=True)]
    expected = compute_epsilon(document["accountant"]["rdp_orders"], total, document["delta"])[0]
    assert document["epsilon_spent"] == pytest.approx(expected, rel=1e-12)


def test_an_export_is_a_private_file_and_never_the_ledger_itself(
    filled: Book, tmp_path: Path
) -> None:
    target = tmp_path / "ledger.json"
    assert output(filled.home, "ledger", "export", "--output", str(target)) == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert json.loads(target.read_text())["party"] == "bank"
    path = load_settings(filled.home).ledger
    before = path.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(path)
    for same in (path, link):
        error = failed(filled.home, "ledger", "export", "--output", str(same))
        assert isinstance(error, ConfigError)
        assert "never overwritten" in str(error)
    assert path.read_bytes() == before
    error = failed(filled.home, "ledger", "export", "--output", str(tmp_path / "no" / "file"))
    assert "cannot be written" in str(error)
