"""The parts under the desk: cursors, explanations, answers kept, and the stores on PostgreSQL."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from coordinator import cursors, failures
from coordinator.desk_store import DeskStore, Marks, RunFilter
from coordinator.idempotency import ABANDONED, KEPT, Answer, Answers, Begun
from coordinator.live import Live, Position, parse_position
from coordinator.member_store import MemberStore
from coordinator.run_store import MIGRATIONS, RunStore
from privacy import errors
from privacy.errors import ConfigError, NotFound, RunStopped
from privacy.hosting.access import Access
from tests.integration.control_plane_server import PLAN

KEY = bytes(range(32))


# Cursors ---------------------------------------------------------------------------------------


@given(
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=8))])),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
)
def test_a_place_survives_its_cursor(made: datetime, name: str) -> None:
    assert cursors.place_of(cursors.of_place(made, name)) == (made, name)


@given(st.text(max_size=60))
def test_no_text_is_a_wrong_place_or_an_unforeseen_error(text_: str) -> None:
    for read in (cursors.place_of, cursors.name_of, cursors.number_of):
        with suppress(ConfigError):
            assert read(text_) is not None


def test_a_cursor_of_another_list_is_refused() -> None:
    for cursor, read in (
        (cursors.of_name("bank"), cursors.place_of),
        (cursors.of_number(7), cursors.name_of),
        (cursors.of_place(datetime.now(UTC), "run-1"), cursors.number_of),
    ):
        with pytest.raises(ConfigError):
            read(cursor)


# Failures --------------------------------------------------------------------------------------


def test_every_error_has_a_cause_and_a_next_step_of_its_own_or_its_kinds() -> None:
    for name, kind in vars(errors).items():
        if not isinstance(kind, type) or not issubclass(kind, errors.RunError):
            continue
        found = failures.explain(name)
        assert found.cause.endswith(".")
        assert found.next_step.endswith(".")
        assert found is not failures.explain("NoSuchError")
    assert failures.explain("RunStopped") is not failures.explain("PartyTimeout")


# Stores, on both databases ---------------------------------------------------------------------


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'coordinator.db'}"


@pytest.fixture(params=["sqlite_url", "postgresql_url"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def make_runs(url: str, count: int) -> RunStore:
    runs = RunStore(url)
    for number in range(count):
        runs.create_run(f"run-{number}", PLAN, b"p" * 32, bytes([number]) * 64)
        runs.fail(f"run-{number}", RunStopped("stopped"))
    return runs


def test_pages_follow_each_other_without_gap_or_repetition(url: str) -> None:
    runs, store = make_runs(url, 7), DeskStore(url)
    seen: list[str] = []
    before = None
    while rows := store.page(RunFilter(state="stopped"), before, 3):
        seen += [row["run_id"] for row in rows]
        before = rows[-1]["created_at"], rows[-1]["run_id"]
    assert seen == [f"run-{number}" for number in reversed(range(7))]
    assert store.page(RunFilter(plan="other"), None, 3) == []
    assert store.states_of(["run-1", "never"]) == {"run-1": "stopped"}
    with pytest.raises(NotFound):
        store.one("never")
    store.close()
    runs.close()


def test_versions_count_finished_runs_of_one_name(url: str) -> None:
    runs, store = RunStore(url), DeskStore(url)
    for number, plan in enumerate((PLAN, PLAN.replace(b'"churn"', b'"other"', 1), PLAN)):
        runs.create_run(f"run-{number}", plan, b"p" * 32, bytes([number]) * 64)
        runs.finish(f"run-{number}", {"parties": []})
    names = ["run-0", "run-1", "run-2"]
    assert store.versions(names) == {"run-0": 1, "run-1": 1, "run-2": 2}
    assert [one[0] for one in store.finished_sources(2)] == ["run-2", "run-1"]
    assert store.bytes_of(names) == dict.fromkeys(names, (0, 0))
    store.close()
    runs.close()


def test_events_come_once_and_in_order(url: str) -> None:
    runs, store = RunStore(url), DeskStore(url)
    runs.create_run("run-1", PLAN, b"p" * 32, b"s" * 64)
    recorder = runs.recorder("run-1")
    recorder.phase("round", 1, 6)
    recorder.exchange("round", 1, 0.5, {"bank": 7, "shop": 9}, {"bank": 1})
    recorder.metric("auc", 0.5)
    live = Live(store, dict)
    first = live.since("run-1", Position(), "bank")
    assert [one.kind for one in first] == ["exchange", "metric", "run"]
    assert getattr(first[0].data, "bytes_up", None) == {"bank": 7}
    assert live.since("run-1", first[-1].position) == []
    assert parse_position(str(first[-1].position)) == first[-1].position
    assert not live.has_ended("run-1")
    marks, _ = store.peek("run-1")
    assert store.between("run-1", marks, marks) == []
    assert len(store.between("run-1", Marks(), marks)) == 2
    runs.fail("run-1", RunStopped("stopped"))
    later = Live(store, dict)
    assert [one.kind for one in later.since("run-1", first[-1].position)] == ["end"]
    assert later.has_ended("run-1")
    with pytest.raises(NotFound):
        later.since("never", Position())
    store.close()
    runs.close()


def test_an_answer_is_kept_sealed_for_a_day_and_for_its_asker_alone(url: str) -> None:
    access = Access(url, KEY, MIGRATIONS)
    answers = Answers(access)
    asked = ("anna", "/v1/invitations", "a-key-of-sixteen-or-more", b"{}")
    begun = answers.begin(*asked)
    assert isinstance(begun, Begun)
    assert answers.begin(*asked) is None
    answers.done(begun, Answer(200, b"a secret answer"))
    assert answers.begin(*asked) == Answer(200, b"a secret answer")
    with pytest.raises(ConfigError, match="another request"):
        answers.begin(*asked[:3], b"{} ")
    assert isinstance(answers.begin("ben", *asked[1:]), Begun)
    with access.engine.begin() as connection:
        stored = connection.execute(text("SELECT answer FROM idempotency")).scalars().all()
        assert not any(b"secret" in bytes(one or b"") for one in stored)
        old = datetime.now(UTC).replace(tzinfo=None) - KEPT - timedelta(minutes=1)
        connection.execute(text("UPDATE idempotency SET created_at = :old"), {"old": old})
    assert isinstance(answers.begin(*asked), Begun)
    access.close()


def test_an_answer_that_never_came_can_be_asked_for_again(url: str) -> None:
    access = Access(url, KEY, MIGRATIONS)
    answers = Answers(access)
    asked = ("anna", "/v1/runs", "a-key-of-sixteen-or-more", b"{}")
    first = answers.begin(*asked)
    assert isinstance(first, Begun)
    answers.forget(first)
    assert isinstance(answers.begin(*asked), Begun)
    old = datetime.now(UTC).replace(tzinfo=None) - ABANDONED - timedelta(seconds=1)
    with access.engine.begin() as connection:
        connection.execute(text("UPDATE idempotency SET created_at = :old"), {"old": old})
    assert isinstance(answers.begin(*asked), Begun)
    access.close()


def test_a_removed_party_stays_listed_and_leaves_no_open_invitation(url: str) -> None:
    members = MemberStore(url, KEY)
    invited = members.invite("bank", timedelta(hours=1))
    members.enrol(invited.token, "bank", b"k" * 32, "node-key", lambda: None)
    members.invite("shop", timedelta(hours=1))
    gone: list[str] = []
    members.remove("bank", lambda party: gone.append(party.name))
    assert (gone, members.parties(), members.party("bank")) == (["bank"], [], None)
    assert members.everyone()[0].removed_at is not None
    assert [one.party for one in members.open_invitations()] == ["shop"]
    with pytest.raises(NotFound):
        members.remove("bank", lambda party: None)
    again = members.invite("bank", timedelta(hours=1))
    with pytest.raises(ConfigError, match="other keys"):
        members.enrol(again.token, "bank", b"x" * 32, "node-key", lambda: None)
    members.enrol(again.token, "bank", b"k" * 32, "node-key", lambda: None)
    assert members.party("bank") is not None
    members.close()


def test_a_party_whose_node_cannot_be_unregistered_stays(url: str) -> None:
    members = MemberStore(url, KEY)
    invited = members.invite("bank", timedelta(hours=1))
    members.enrol(invited.token, "bank", b"k" * 32, "node-key", lambda: None)

    def refuse(_party: object) -> None:
        raise errors.NotRunningError("the SuperLink does not answer")

    with pytest.raises(errors.NotRunningError):
        members.remove("bank", refuse)
    assert members.party("bank") is not None
    members.close()
