"""Evidence packs of real runs: what verifies, what does not, and by which name it fails."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from coordinator.evidence import Evidence
from coordinator.evidence_cli import evidence_app
from coordinator.evidence_facts import everywhere, recomputed
from coordinator.evidence_keys import certificate_path, certify, key_path
from coordinator.evidence_keys import load as load_evidence_key
from coordinator.evidence_verify import Verified, verify
from coordinator.member_store import MemberStore
from coordinator.rounds import run
from coordinator.run_store import RunStore
from coordinator.settings import CONFIG_NAME, load_settings
from coordinator.setup import initialise
from privacy.errors import CohortError, ConfigError, EvidenceError, FedtagsError, RunError
from privacy.evidence import (
    CERTIFICATE,
    CONTENT,
    COORDINATOR,
    FACTS,
    MANIFEST,
    PLAN,
    REPORTS,
    REQUEST,
    SBOM,
    SIGNATURE,
    STATEMENTS,
    KeyFile,
    canonical_json,
    open_pack,
    seal_pack,
)
from privacy.evidence_archive import ARCHIVE, unpack
from privacy.identity import SigningKey, read_secret, sign_plan
from simulations.homes import Federation
from simulations.local_federation import Fault, FaultyChannel, MemoryChannel
from tests.integration.conftest import PLAN as CHURN
from tests.integration.conftest import LocalRun

RUN = "churn-1"
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DESCRIBED = CHURN.replace(
    b'purpose = "marketing"',
    'purpose = "marketing"\ndescription = "<script>alert(1)</script> 谁会流失 {run}"'.encode(),
)
SINGLE = CHURN + b"\n[aggregation]\nsingle_opening = true\n"
NOISED = CHURN.replace(b"epsilon = 1.0\nevaluation_epsilon = 1.0", b"epsilon = 0.8") + (
    b'\n[aggregation]\nweights = "noised_size"\n'
)


@dataclass
class Ended:
    """A coordinator's home with one run that has ended, and the public keys of its federation."""

    home: Path
    evidence: Evidence
    federation: Federation

    def pack(self) -> bytes:
        self.evidence.export(RUN)
        return self.evidence.read(RUN)

    def resealed(self, change: Callable[[dict[str, bytes]], None]) -> bytes:
        """The pack as the coordinator itself would sign it after `change` of its parts."""
        pack = open_pack(self.pack(), self.evidence.keys())
        parts = dict(pack.parts)
        change(parts)
        signer, certificate = load_evidence_key(load_settings(self.home))
        return seal_pack(parts, signer, certificate, RUN, AT)


def coordinator_home(home: Path, federation: Federation, url: str | None = None) -> Path:
    """A coordinator's home with the federation's keys and members."""
    initialise(home, "local", "science")
    if url is not None:
        config = home / CONFIG_NAME
        config.write_text(config.read_text().replace("sqlite:///coordinator.db", url))
    settings = load_settings(home)
    for path in (settings.coordinator_key, settings.requester_key, key_path(settings)):
        path.unlink()
    certificate_path(settings).unlink()
    federation.coordinator.save(settings.coordinator_key)
    federation.requester.save(settings.requester_key)
    certify(settings)
    members = MemberStore(settings.database_url, read_secret(settings.token_key))
    try:
        members.add_requester("asker", federation.requester.public)
        for number, (party, key) in enumerate(sorted(federation.members.items())):
            invitation = members.invite(party, AT - datetime(2026, 2, 1, tzinfo=UTC))
            members.enrol(
                invitation.token, party, key, f"ssh-key-of-a-supernode-{number:020}", lambda: None
            )
    finally:
        members.close()
    return home


def conducted(
    home: Path, local: LocalRun, plan: bytes = CHURN, faults: tuple[Fault, ...] = ()
) -> Ended:
    """Conduct a run over the parties' real services into the home's store, to its end."""
    settings, federation = load_settings(home), local.federation
    store = RunStore(settings.database_url)
    try:
        signature = sign_plan(federation.requester, RUN, plan)
        store.create_run(RUN, plan, federation.requester.public, signature)
        answers = {party: local.service(party).answer for party in federation.homes}
        channel = FaultyChannel(MemoryChannel(answers), list(faults))
        recorder = store.recorder(RUN)
        try:
            outcome = run(store.load_request(RUN), channel, federation.coordinator, recorder)
            store.finish(RUN, outcome)
        except FedtagsError as error:
            store.fail(RUN, error)
    finally:
        store.close()
    return Ended(home, Evidence(settings, lambda: AT), federation)


@pytest.fixture(scope="module")
def finished(
    market_template: tuple[Path, Federation], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ended]:
    """One finished run of three parties, shared by tests that change nothing of it."""
    folder, made = market_template
    copy = tmp_path_factory.mktemp("evidence")
    shutil.copytree(folder, copy / "m")
    homes = {party: copy / "m" / party for party in made.homes}
    local = LocalRun(Federation(homes, made.coordinator, made.requester, made.members))
    home = coordinator_home(copy / "coordinator", local.federation)
    ended = conducted(home, local, DESCRIBED)
    local.close()
    yield ended
    ended.evidence.close()


@pytest.fixture(scope="module")
def pack(finished: Ended) -> bytes:
    return finished.pack()


@pytest.fixture(scope="module")
def keys(finished: Ended) -> KeyFile:
    return KeyFile.read(finished.evidence.keys().to_json())


def test_a_finished_runs_pack_verifies_with_public_keys_alone(
    finished: Ended, pack: bytes, keys: KeyFile
) -> None:
    found = verify(pack, keys)
    assert (found.federation, found.run, found.state) == ("local", RUN, "finished")
    assert found.requester == "asker"
    # A decision, a confirmation, two updates, an evaluation, its opening and a receipt of each.
    assert found.statements == 3 * 7
    assert set(found.epsilon) == set(found.heads) == {"bank", "ecommerce", "retailer"}
    assert all(one["receipt"] and one["rounds"] == 2 for one in found.facts["parties"])
    assert all(one["ledger"]["grew"] for one in found.facts["parties"])


def test_the_recomputed_epsilon_encloses_what_was_charged(pack: bytes, keys: KeyFile) -> None:
    found = verify(pack, keys)
    for party, (lower, upper) in found.epsilon.items():
        told = found.facts["mechanisms"][party]
        assert lower < told["epsilon"] < upper
        assert told["epsilon_training"] <= 1.0 < told["epsilon"] < 2.0


def test_the_figures_of_a_pack_are_those_of_the_run(
    finished: Ended, pack: bytes, keys: KeyFile
) -> None:
    evaluation = verify(pack, keys).facts["evaluation"]
    store = RunStore(load_settings(finished.home).database_url)
    outcome = store.get(RUN).outcome
    store.close()
    assert outcome is not None
    assert evaluation["cells"] == outcome["evaluation"]
    for name in ("auc", "auc_standard_error", "calibration"):
        assert evaluation[name] == pytest.approx(outcome[name])


def test_what_left_a_party_is_counted_as_the_coordinator_counted_it(
    pack: bytes, keys: KeyFile
) -> None:
    found = verify(pack, keys)
    for one in found.facts["parties"]:
        received = found.said["received"][one["name"]]
        assert sum(sent["bytes"] for sent in one["sent"]) == sum(
            phase["from_party"] for phase in received.values()
        )


def test_a_pack_holds_no_key_no_sum_and_no_exact_count(pack: bytes, keys: KeyFile) -> None:
    parts = unpack(pack)
    lines = json.loads(parts[STATEMENTS])["lines"]
    closed = [one for one in lines if one["type"] == "key-seal"]
    assert len(closed) == 3
    assert not any(one["statement"] for one in closed)
    # Ciphertexts travel as attachments, of which a statement has the hash alone.
    updates = [one for one in lines if one["type"] == "update"]
    assert all(one["bytes"] > 10 * len(one["statement"]) for one in updates)


def part_at(pack: bytes, position: int) -> str:
    """The part in whose bytes `position` lies, or the archive."""
    for name, data in unpack(pack).items():
        start = pack.index(data)
        if start <= position < start + len(data):
            return name
    return ARCHIVE


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_fails_with_the_name_of_its_part(
    pack: bytes, keys: KeyFile, where: float, bit: int
) -> None:
    position = int(where * len(pack))
    changed = bytearray(pack)
    changed[position] ^= 1 << bit
    with pytest.raises(EvidenceError) as caught:
        verify(bytes(changed), keys)
    assert caught.value.part == part_at(pack, position)
    assert str(caught.value).startswith(caught.value.part)


@pytest.mark.parametrize("name", [CERTIFICATE, SIGNATURE, MANIFEST, *CONTENT])
def test_the_first_and_the_last_byte_of_each_part_count(
    pack: bytes, keys: KeyFile, name: str
) -> None:
    data = unpack(pack)[name]
    start = pack.index(data)
    for position in (start, start + len(data) - 1):
        changed = bytearray(pack)
        changed[position] ^= 1
        with pytest.raises(EvidenceError) as caught:
            verify(bytes(changed), keys)
        assert caught.value.part == name


@pytest.mark.parametrize("cut", [0, 1, 3, 29, 500, -1])
def test_a_cut_pack_is_refused(pack: bytes, keys: KeyFile, cut: int) -> None:
    with pytest.raises(EvidenceError):
        verify(pack[:cut], keys)


def test_bytes_behind_a_pack_are_refused(pack: bytes, keys: KeyFile) -> None:
    with pytest.raises(EvidenceError, match="archive"):
        verify(pack + b"\0", keys)


def test_a_pack_of_another_federation_is_refused(pack: bytes, keys: KeyFile) -> None:
    with pytest.raises(EvidenceError, match=r"certificate\.json.*federation local"):
        verify(pack, replace(keys, federation="other"))
    with pytest.raises(EvidenceError, match=r"certificate\.json"):
        verify(pack, replace(keys, coordinator=SigningKey.generate().public))


def test_an_evidence_key_that_the_key_file_does_not_name_is_refused(
    pack: bytes, keys: KeyFile
) -> None:
    with pytest.raises(EvidenceError, match=r"certificate\.json.*key file"):
        verify(pack, replace(keys, evidence=(SigningKey.generate().public,)))
    assert verify(pack, replace(keys, evidence=())).run == RUN


def test_keys_of_others_than_the_file_knows_are_refused(pack: bytes, keys: KeyFile) -> None:
    stranger = SigningKey.generate().public
    parties = tuple((name, stranger if name == "bank" else key) for name, key in keys.parties)
    with pytest.raises(EvidenceError, match=r"request\.json.*bank"):
        verify(pack, replace(keys, parties=parties))
    with pytest.raises(EvidenceError, match=r"request\.json.*requester"):
        verify(pack, replace(keys, requesters=(("asker", stranger),)))


def facts_changed(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        facts = json.loads(parts[FACTS])
        change(facts)
        parts[FACTS] = canonical_json(facts)

    return apply


def lines_changed(change: Callable[[list[Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        lines = json.loads(parts[STATEMENTS])["lines"]
        change(lines)
        parts[STATEMENTS] = canonical_json({"lines": lines})

    return apply


def find(lines: list[Any], kind: str, party: str = "bank") -> int:
    return next(
        number for number, one in enumerate(lines) if (one["type"], one["party"]) == (kind, party)
    )


def less_noise(facts: dict[str, Any]) -> None:
    """Everything told consistently, for a noise multiplier a tenth smaller."""
    facts["mechanisms"]["bank"]["noise_multiplier"] *= 0.9
    facts["recomputed"] = recomputed(facts["mechanisms"])
    lower, upper = facts["recomputed"]["bank"]["whole"]
    facts["mechanisms"]["bank"]["epsilon"] = (lower + upper) / 2
    lower, upper = facts["recomputed"]["bank"]["training"]
    facts["mechanisms"]["bank"]["epsilon_training"] = (lower + upper) / 2
    facts["everywhere"] = everywhere(facts["mechanisms"])


def set_in(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        inner: Any = facts
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


LIES = {
    "a lower epsilon": (FACTS, set_in("mechanisms", "bank", "epsilon", value=0.5)),
    "less noise": (FACTS, less_noise),
    "another recomputation": (FACTS, set_in("recomputed", "bank", "whole", value=[0.1, 0.2])),
    "another delta": (FACTS, set_in("mechanisms", "bank", "delta", value=0.5)),
    "another size": (FACTS, set_in("parties", 0, "decision", "public_size", value=10**6)),
    "a party less": (FACTS, lambda facts: facts["parties"].pop()),
    "a better model": (FACTS, set_in("evaluation", "auc", value=0.99)),
    "a smaller sum": (FACTS, set_in("everywhere", "epsilon", value=0.1)),
    "another plan": (FACTS, set_in("plan", "name", value="harmless")),
    "fewer bytes": (FACTS, set_in("parties", 0, "sent", 3, "bytes", value=1)),
    "nothing": (FACTS, lambda facts: facts.clear()),
    "no list": (FACTS, set_in("parties", value="none")),
    "a fact more": (FACTS, set_in("certified", value="by nobody")),
    "a mechanism's field more": (FACTS, set_in("mechanisms", "bank", "certified", value=1)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_coordinator_that_signs_other_facts_is_found_out(
    finished: Ended, keys: KeyFile, lie: str
) -> None:
    part, change = LIES[lie]
    with pytest.raises(EvidenceError) as caught:
        verify(finished.resealed(facts_changed(change)), keys)
    assert caught.value.part == part


def leaves(value: Any) -> list[tuple[str | int, ...]]:
    """The paths of all values within a JSON value, its containers included."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[str | int, ...]] = []
    for key, inner in items:
        found.append((key,))
        if isinstance(inner, dict | list):
            found += [(key, *path) for path in leaves(inner)]
    return found


ODD = [None, True, "x", "\x1b[2J", -1, 0, 0.5, 1e308, 10**400, [], {}, [[1]], {"a": None}]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_odd_values_in_a_signed_part_meet_a_named_error(
    finished: Ended, pack: bytes, keys: KeyFile, data: st.DataObject
) -> None:
    part = data.draw(st.sampled_from([FACTS, REQUEST, STATEMENTS, COORDINATOR]))
    value = json.loads(unpack(pack)[part])
    path = data.draw(st.sampled_from(leaves(value)))
    set_in(*path, value=data.draw(st.sampled_from(ODD)))(value)
    changed = finished.resealed(lambda parts: parts.update({part: canonical_json(value)}))
    error = failure_of(changed, keys)
    if error is None:  # of what it says alone, a coordinator may say what it likes
        assert part == COORDINATOR or value == json.loads(unpack(pack)[part])
    else:
        assert error.part in CONTENT
        assert str(error).isprintable()


def failure_of(data: bytes, keys: KeyFile) -> EvidenceError | None:
    try:
        verify(data, keys)
    except EvidenceError as error:
        return error
    return None


def swap(lines: list[Any]) -> None:
    one, other = find(lines, "update"), find(lines, "evaluation-update")
    lines[one], lines[other] = lines[other], lines[one]


TAMPERED: dict[str, Callable[[list[Any]], Any]] = {
    "one in the middle left out": lambda lines: lines.pop(find(lines, "update")),
    "a confirmation left out": lambda lines: lines.pop(find(lines, "key-confirm")),
    "two swapped": swap,
    "one twice": lambda lines: lines.append(lines[find(lines, "receipt")]),
    "one under another name": lambda lines: set_in(0, "party", value="retailer")(lines),
    "another cohort": lambda lines: set_in(0, "cohort", value=["bank", "retailer"])(lines),
    "another question": lambda lines: set_in(0, "asked", value="00" * 32)(lines),
    "another length": lambda lines: set_in(0, "bytes", value=1)(lines),
    "an update kept as a digest": lambda lines: set_in(
        find(lines, "update"), "type", value="key-seal"
    )(lines),
    "a foreign field": lambda lines: set_in(0, "more", value=1)(lines),
    "a number as text": lambda lines: set_in(0, "epoch", value="1")(lines),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_statements_cannot_be_left_out_moved_or_changed(
    finished: Ended, keys: KeyFile, what: str
) -> None:
    with pytest.raises(EvidenceError) as caught:
        verify(finished.resealed(lines_changed(TAMPERED[what])), keys)
    assert caught.value.part == STATEMENTS


def test_the_last_statement_left_out_shows_where_a_run_is_said_to_have_finished(
    finished: Ended, keys: KeyFile
) -> None:
    def without_receipts(lines: list[Any]) -> None:
        lines[:] = [one for one in lines if one["type"] != "receipt"]

    def change(parts: dict[str, bytes]) -> None:
        lines_changed(without_receipts)(parts)
        facts_changed(set_in("evaluation", value=None))(parts)

    with pytest.raises(EvidenceError):
        verify(finished.resealed(change), keys)


def test_another_plan_than_the_requester_signed_is_refused(finished: Ended, keys: KeyFile) -> None:
    def change(parts: dict[str, bytes]) -> None:
        parts[PLAN] = parts[PLAN].replace(b"epsilon = 1.0", b"epsilon = 0.5")

    with pytest.raises(EvidenceError, match=r"request\.json: the requester did not sign"):
        verify(finished.resealed(change), keys)


def test_a_plan_that_is_none_is_refused_by_its_name(finished: Ended, keys: KeyFile) -> None:
    def change(parts: dict[str, bytes]) -> None:
        parts[PLAN] = b"format = 1\n"

    with pytest.raises(EvidenceError) as caught:
        verify(finished.resealed(change), keys)
    assert caught.value.part == PLAN


def test_a_pack_is_made_once_and_the_same_facts_give_the_same_bytes(
    finished: Ended, pack: bytes, tmp_path: Path
) -> None:
    record = finished.evidence.export(RUN)
    assert finished.evidence.read(RUN) == pack
    assert finished.evidence.list() == [record]
    assert finished.evidence.missing() == []
    file = finished.home / "evidence" / f"{RUN}.evidence.zip"
    assert file.stat().st_mode & 0o777 == 0o600
    aside = tmp_path / "aside"
    file.rename(aside)
    try:
        finished.evidence.export(RUN)
        assert file.read_bytes() == pack
    finally:
        aside.replace(file)


def test_a_pack_that_was_changed_in_its_folder_is_a_fault_and_not_given_out(
    finished: Ended, pack: bytes
) -> None:
    file = finished.home / "evidence" / f"{RUN}.evidence.zip"
    file.write_bytes(pack[:-1])
    try:
        with pytest.raises(FedtagsError, match="not the one that was made"):
            finished.evidence.read(RUN)
        assert set(finished.evidence.faults()) == {RUN}
    finally:
        file.write_bytes(pack)
    assert finished.evidence.faults() == {}


def test_the_report_says_the_same_in_both_languages_and_runs_nothing(
    pack: bytes, keys: KeyFile
) -> None:
    parts, found = unpack(pack), verify(pack, keys)
    for language, words in (("en", "What is not covered"), ("zh", "未覆盖的内容")):
        page = parts[f"report.{language}.html"].decode()
        assert words in page
        assert "<script" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt; 谁会流失 {run}" in page
        assert "http:" not in page
        assert "https:" not in page
        for party, told in found.facts["mechanisms"].items():
            assert party in page
            assert f"{told['epsilon']:.4g}" in page
        assert parts[f"report.{language}.pdf"].startswith(b"%PDF-")


def test_the_bill_of_materials_names_what_trains_and_what_encrypts(pack: bytes) -> None:
    bill = json.loads(unpack(pack)[SBOM])
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "fedtags"
    assert {"opacus", "tenseal", "dp-accounting"} <= {one["name"] for one in bill["components"]}


def test_verifying_needs_no_database_no_flower_and_no_network(
    pack: bytes, finished: Ended, tmp_path: Path
) -> None:
    (tmp_path / "pack").write_bytes(pack)
    (tmp_path / "keys").write_bytes(finished.evidence.keys().to_json())
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise OSError('no network here')\n"
        "socket.socket.connect = refuse\n"
        "from pathlib import Path\n"
        "from coordinator.evidence_verify import verify\n"
        "from privacy.evidence import KeyFile\n"
        "found = verify(Path('pack').read_bytes(), KeyFile.read(Path('keys').read_bytes()))\n"
        "assert not {'sqlalchemy', 'flwr', 'fastapi', 'torch'} & set(sys.modules)\n"
        "print(found.run)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (f"{RUN}\n", 0), done.stderr


def test_the_commands_export_list_and_verify(finished: Ended, pack: bytes, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(evidence_app, arguments, obj=finished.home)
        if done.exception is not None:
            raise done.exception
        return done.output

    file, keys = tmp_path / "pack.zip", tmp_path / "keys.json"
    assert "SHA-256" in said("export", RUN, "--output", str(file))
    assert file.read_bytes() == pack
    with pytest.raises(ConfigError, match="already exists"):
        said("export", RUN, "--output", str(file))
    said("keys", "--output", str(keys))
    assert keys.read_text() == said("keys")
    text = said("verify", str(file), "--keys", str(keys))
    assert "everything in it verifies" in text
    assert "ledger of bank" in text
    told = json.loads(said("verify", str(file), "--keys", str(keys), "--format", "json"))
    assert told["run"] == RUN
    assert RUN in said("list")
    assert json.loads(said("list", "--format", "json"))["missing"] == []
    file.write_bytes(pack.replace(b"marketing", b"tormented", 1))
    with pytest.raises(EvidenceError, match=r"^plan\.toml: changed"):
        said("verify", str(file), "--keys", str(keys))


def test_a_run_that_paused_for_a_party_keeps_every_key_agreements_statements(
    local: LocalRun, tmp_path: Path
) -> None:
    home = coordinator_home(tmp_path / "c", local.federation)
    fault = Fault("bank", "train-round", number=2, loses="reply")
    ended = conducted(home, local, CHURN, (fault,))
    found = verified(ended)
    assert found.state == "finished"
    assert [one["epoch"] for one in found.facts["cohorts"]][-1] > 1
    assert [one["event"] for one in found.said["membership"]] == ["left", "returned"]


@pytest.mark.parametrize("plan", [SINGLE, NOISED], ids=["single opening", "noised weights"])
def test_packs_of_other_plans_verify_too(local: LocalRun, tmp_path: Path, plan: bytes) -> None:
    found = verified(conducted(coordinator_home(tmp_path / "c", local.federation), local, plan))
    assert found.state == "finished"
    noised = {one["weights_noise_multiplier"] for one in found.facts["mechanisms"].values()}
    assert (noised == {None}) == (plan == SINGLE)


def test_a_second_runs_pack_names_the_first(local: LocalRun, tmp_path: Path) -> None:
    local.run(run_id="earlier")
    found = verified(conducted(coordinator_home(tmp_path / "c", local.federation), local))
    assert {one["run"] for one in found.facts["earlier_runs"]} == {"earlier"}
    assert {one["party"] for one in found.facts["earlier_runs"]} == set(local.federation.homes)


def test_a_failed_run_has_a_pack_that_says_so_also_from_postgresql(
    local: LocalRun, tmp_path: Path, postgresql_url: str
) -> None:
    policy = local.federation.homes["bank"] / "policy.toml"
    policy.write_text(policy.read_text().replace('"marketing"', '"research"'))
    found = verified(
        conducted(coordinator_home(tmp_path / "c", local.federation, postgresql_url), local)
    )
    assert found.state == "failed"
    decisions = {one["name"]: one["decision"] for one in found.facts["parties"]}
    assert not decisions["bank"]["accepted"]
    assert decisions["bank"]["reason"]
    assert set(found.epsilon) == {"ecommerce", "retailer"}
    assert found.facts["evaluation"] is None


def test_an_active_run_has_no_pack(local: LocalRun, tmp_path: Path) -> None:
    home = coordinator_home(tmp_path / "c", local.federation)
    store = RunStore(load_settings(home).database_url)
    key = local.federation.requester
    store.create_run(RUN, CHURN, key.public, sign_plan(key, RUN, CHURN))
    evidence = Evidence(load_settings(home))
    with pytest.raises(RunError, match="has not ended"):
        evidence.export(RUN)
    # And one that never asked anybody has one without statements.
    store.fail(RUN, CohortError("too few parties"))
    evidence.export(RUN)
    found = verify(evidence.read(RUN), evidence.keys())
    assert (found.state, found.statements, found.facts["parties"]) == ("failed", 0, [])
    with pytest.raises(FedtagsError, match="no run"):
        evidence.export("unknown")
    evidence.close()
    store.close()


def verified(ended: Ended) -> Verified:
    try:
        return verify(ended.pack(), ended.evidence.keys())
    finally:
        ended.evidence.close()


def test_the_report_parts_are_those_of_the_format(pack: bytes) -> None:
    assert set(REPORTS) <= set(unpack(pack))
    assert {COORDINATOR, REQUEST} <= set(unpack(pack))
