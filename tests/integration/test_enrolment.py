"""Enrolment over real TLS: what a partner pins, and everything that must be refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from coordinator.client import CoordinatorClient
from coordinator.tables import invitations, parties
from party_client.enrolment import confirm, join, refresh
from party_client.federation import load_federation
from party_client.policy import load_policy
from party_client.setup import admit_requesters
from privacy.errors import (
    CertificateError,
    CohortError,
    ConfigError,
    NotRunningError,
    NotSignedIn,
    SignatureError,
)
from privacy.hosting.database import open_engine
from privacy.hosting.enrolment import Invite, read_invite
from privacy.identity import SigningKey, fingerprint
from tests.integration.control_plane_server import (
    PLAN,
    Coordinator,
    make_coordinator,
    make_party,
    served,
)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with served(make_coordinator(tmp_path_factory.mktemp("federation") / "home")) as running:
        yield running


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Coordinator]:
    """A coordinator for tests that need a federation of their own."""
    with served(make_coordinator(tmp_path / "lone", "lone")) as running:
        yield running


def invited(coordinator: Coordinator, name: str) -> Invite:
    with coordinator.client() as client:
        return client.invite(name)


def test_join_pins_coordinator_requesters_and_members(lone: Coordinator, tmp_path: Path) -> None:
    bank, shop = make_party(tmp_path / "bank", "bank"), make_party(tmp_path / "shop", "shop")
    join(bank, invited(lone, "bank"))
    pinned = join(shop, invited(lone, "shop"))
    own = SigningKey.load(shop.identity_key).public
    theirs = SigningKey.load(bank.identity_key).public
    coordinator_key = SigningKey.load(lone.settings.coordinator_key).public
    requester = SigningKey.load(lone.settings.requester_key).public
    assert pinned.coordinator.public_key == coordinator_key.hex()
    assert pinned.coordinator.fingerprint == fingerprint(coordinator_key)
    assert pinned.coordinator.superlink == lone.settings.superlink_address
    assert [item.public_key for item in pinned.requesters] == [requester.hex()]
    assert pinned.members["bank"].public_key == theirs.hex()
    # Another member does not count before its fingerprint was compared; this party itself does.
    assert pinned.confirmed == {"shop": own}
    assert shop.ca_certificate.read_text() == lone.settings.ca_certificate.read_text()
    path = shop.home / "federation.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["members"]["bank"]["confirmed"] is False
    assert lone.executor.registered["bank"].startswith("ecdsa-sha2-nistp384 ")


def test_confirmed_member_counts_and_later_members_are_found(
    lone: Coordinator, tmp_path: Path
) -> None:
    bank, shop = make_party(tmp_path / "bank", "bank"), make_party(tmp_path / "shop", "shop")
    join(bank, invited(lone, "bank"))
    assert sorted(load_federation(bank.home).members) == ["bank"]
    join(shop, invited(lone, "shop"))
    found = refresh(bank)
    assert sorted(found.members) == ["bank", "shop"]
    confirm(bank, {"shop": found.members["shop"].fingerprint})
    expected = {
        "bank": SigningKey.load(bank.identity_key).public,
        "shop": SigningKey.load(shop.identity_key).public,
    }
    assert load_federation(bank.home).confirmed == expected
    # Looking again forgets no confirmation.
    assert refresh(bank).confirmed == expected


def test_wrong_fingerprint_confirms_nobody(lone: Coordinator, tmp_path: Path) -> None:
    for name in ("bank", "shop"):
        join(make_party(tmp_path / name, name), invited(lone, name))
    cafe = make_party(tmp_path / "cafe", "cafe")
    pinned = join(cafe, invited(lone, "cafe"))
    given = {
        "bank": pinned.members["bank"].fingerprint,
        "shop": pinned.members["bank"].fingerprint,
    }
    with pytest.raises(SignatureError, match="shop"):
        confirm(cafe, given)
    assert sorted(load_federation(cafe.home).confirmed) == ["cafe"]
    with pytest.raises(ConfigError, match="no member"):
        confirm(cafe, {"nobody": given["bank"]})


def test_changed_key_of_a_known_member_is_refused_and_nothing_changes(
    lone: Coordinator, tmp_path: Path
) -> None:
    bank, shop = make_party(tmp_path / "bank", "bank"), make_party(tmp_path / "shop", "shop")
    join(bank, invited(lone, "bank"))
    join(shop, invited(lone, "shop"))
    pinned = refresh(bank)
    confirm(bank, {"shop": pinned.members["shop"].fingerprint})
    before = (bank.home / "federation.json").read_bytes()
    impostor = SigningKey.generate().public
    with open_engine(lone.settings.database_url).begin() as connection:
        connection.execute(
            update(parties).where(parties.c.name == "shop").values(public_key=impostor)
        )
    with pytest.raises(SignatureError, match=fingerprint(impostor)):
        refresh(bank)
    assert (bank.home / "federation.json").read_bytes() == before


def test_coordinator_that_swaps_this_partys_own_key_is_refused(
    lone: Coordinator, tmp_path: Path
) -> None:
    bank = make_party(tmp_path / "bank", "bank")
    join(bank, invited(lone, "bank"))
    with open_engine(lone.settings.database_url).begin() as connection:
        connection.execute(update(parties).values(public_key=SigningKey.generate().public))
    with pytest.raises(SignatureError):
        refresh(bank)


def test_used_token_enrols_nobody_else(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = invited(coordinator, "used")
    first = make_party(tmp_path / "first", "used")
    pinned = join(first, invite)
    with pytest.raises(ConfigError, match="used already"):
        join(make_party(tmp_path / "second", "used"), invite)
    # The same party may repeat it: its first answer may have been lost.
    assert join(first, invite) == pinned


def test_expired_token_is_refused_by_both_sides(coordinator: Coordinator, tmp_path: Path) -> None:
    party = make_party(tmp_path / "late", "late")
    invite = invited(coordinator, "late")
    past = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(ConfigError, match="expired"):
        join(party, invite.model_copy(update={"expires_at": past}))
    with open_engine(coordinator.settings.database_url).begin() as connection:
        connection.execute(
            update(invitations).where(invitations.c.party == "late").values(expires_at=past)
        )
    with pytest.raises(ConfigError, match="expired"):
        join(party, invite)
    assert not (party.home / "federation.json").exists()


def test_invite_is_for_one_name_only(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = invited(coordinator, "intended")
    other = make_party(tmp_path / "other", "other")
    with pytest.raises(ConfigError, match=r"party\.toml says other"):
        join(other, invite)
    with pytest.raises(ConfigError, match="not valid for party other"):
        join(other, invite.model_copy(update={"party": "other"}))


def test_server_with_another_certificate_is_refused(
    coordinator: Coordinator, lone: Coordinator, tmp_path: Path
) -> None:
    """An impostor at the invite's address: another coordinator's real server."""
    invite = invited(coordinator, "misled").model_copy(
        update={"control_url": lone.settings.control_url}
    )
    party = make_party(tmp_path / "misled", "misled")
    with pytest.raises(CertificateError, match="pinned"):
        join(party, invite)
    assert not (party.home / "federation.json").exists()
    with (
        CoordinatorClient(
            lone.settings.control_url,
            coordinator.settings.ca_certificate.read_text(),
            lone.token,
        ) as client,
        pytest.raises(CertificateError),
    ):
        client.health()


def test_nobody_listening_is_said(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = invited(coordinator, "alone").model_copy(update={"control_url": "https://127.0.0.1:1"})
    with pytest.raises(NotRunningError, match=r"127\.0\.0\.1:1"):
        join(make_party(tmp_path / "alone", "alone"), invite)


def test_unreachable_superlink_leaves_the_invite_usable(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    party = make_party(tmp_path / "patient", "patient")
    invite = invited(coordinator, "patient")
    coordinator.executor.broken = True
    try:
        with pytest.raises(NotRunningError):
            join(party, invite)
    finally:
        coordinator.executor.broken = False
    assert coordinator.control.members.party("patient") is None
    assert "patient" in join(party, invite).confirmed


def test_party_of_one_federation_cannot_join_another(
    coordinator: Coordinator, lone: Coordinator, tmp_path: Path
) -> None:
    party = make_party(tmp_path / "double", "double")
    join(party, invited(coordinator, "double"))
    with pytest.raises(ConfigError, match="joined federation demo"):
        join(party, invited(lone, "double"))


def test_enrolled_name_cannot_be_invited_again(coordinator: Coordinator, tmp_path: Path) -> None:
    join(make_party(tmp_path / "once", "once"), invited(coordinator, "once"))
    with pytest.raises(ConfigError, match="enrolled already"):
        invited(coordinator, "once")


def test_keys_of_one_party_cannot_serve_two_names(coordinator: Coordinator, tmp_path: Path) -> None:
    one = make_party(tmp_path / "one", "one")
    join(one, invited(coordinator, "one"))
    two = make_party(tmp_path / "two", "two")
    two.identity_key.write_bytes(one.identity_key.read_bytes())
    with pytest.raises(ConfigError, match="belongs to another member"):
        join(two, invited(coordinator, "two"))


def test_errors_of_the_service_are_raised_again_by_the_client(coordinator: Coordinator) -> None:
    requester = SigningKey.load(coordinator.settings.requester_key)
    plan = PLAN + b'[cohort]\nparties = ["x", "y", "z"]\n'
    with coordinator.client() as client, pytest.raises(CohortError, match="x, y, z") as caught:
        client.submit("run-1", plan, requester)
    assert caught.value.exit_code == 14


def test_wrong_api_token_is_refused(coordinator: Coordinator) -> None:
    ca_pem = coordinator.settings.ca_certificate.read_text()
    with (
        CoordinatorClient(coordinator.settings.control_url, ca_pem, "x" * 43) as client,
        pytest.raises(NotSignedIn, match="token create"),
    ):
        client.runs()


def test_empty_policy_admits_the_invites_requesters_and_an_edited_one_stays(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    requesters = invited(coordinator, "reader").requesters
    party = make_party(tmp_path / "reader", "reader")
    assert load_policy(party.policy).requesters == frozenset()
    assert admit_requesters(party, requesters)
    assert load_policy(party.policy).requesters == {requesters[0].fingerprint}
    assert admit_requesters(party, requesters)
    edited = party.policy.read_text().replace(requesters[0].fingerprint, "0000-1111")
    party.policy.write_text(edited)
    assert not admit_requesters(party, requesters)
    assert party.policy.read_text() == edited


@pytest.mark.parametrize(
    "change",
    [
        {"coordinator_fingerprint": "0000-0000-0000-0000-0000"},
        {"extra": 1},
        {"token": "short"},
        {"requesters": [{"name": "x", "public_key": "zz"}]},
    ],
)
def test_damaged_invite_file_is_refused_without_showing_it(
    coordinator: Coordinator, tmp_path: Path, change: dict[str, object]
) -> None:
    invite = invited(coordinator, "reader")
    path = tmp_path / "invite.json"
    path.write_text(json.dumps({**invite.model_dump(mode="json"), **change}))
    with pytest.raises(ConfigError) as caught:
        read_invite(path)
    assert invite.token not in str(caught.value)
