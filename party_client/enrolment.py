"""Joining a federation and keeping its member list: what a party pins, and what it refuses.

The invite is the one thing a partner takes on trust, from the person who handed it over. Members'
keys come from the coordinator, which is no root of trust, so each counts only once the operator
has confirmed its fingerprint out of band. Every request is in the egress log before it leaves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import ValidationError

from party_client.egress import EgressLog, LoggedRequests
from party_client.federation import (
    FEDERATION_NAME,
    PinnedCoordinator,
    PinnedFederation,
    load_federation,
    save_federation,
)
from party_client.settings import PartySettings
from privacy.errors import ConfigError, ProtocolError, SignatureError
from privacy.hosting.api_client import ApiClient
from privacy.hosting.enrolment import Federation, Invite
from privacy.hosting.signed_requests import SignedRequestAuth
from privacy.identity import SigningKey


def join(settings: PartySettings, invite: Invite) -> PinnedFederation:
    """Enrol with `invite`, and pin the coordinator, its requesters and every member's key.

    Other members start unconfirmed. Safe to repeat with the same invite after a lost answer.
    Raises ConfigError (invite of another party, expired, used; joined elsewhere already),
    CertificateError, NotRunningError, SignatureError (the coordinator shows a wrong key of ours).
    """
    if invite.party != settings.party:
        raise ConfigError(
            f"the invite is for party {invite.party}, party.toml says {settings.party}; correct "
            "`party` in party.toml or ask for an invite in this name"
        )
    if invite.expires_at <= datetime.now(UTC):
        raise ConfigError("the invite has expired; ask the coordinator for a new one")
    pinned = _offered(settings, invite)
    key = SigningKey.load(settings.identity_key)
    body = {
        "token": invite.token,
        "party": settings.party,
        "public_key": key.public.hex(),
        "supernode_public_key": _node_public_key(settings),
    }
    with ApiClient(invite.control_url, invite.ca_certificate, _logged(settings, key)) as api:
        answer = _federation(api.call("POST", "/v1/enrolments", body))
    if answer.federation != invite.federation:
        raise ProtocolError("the coordinator answers for another federation than the invite's")
    return _pin(settings, pinned, answer, key, ca_certificate=invite.ca_certificate)


def refresh(settings: PartySettings) -> PinnedFederation:
    """Ask the coordinator for the members now; new ones start unconfirmed.

    Raises SignatureError, and changes nothing, if a known member shows another key.
    """
    pinned = load_federation(settings.home)
    key = SigningKey.load(settings.identity_key)
    try:
        ca_pem = settings.ca_certificate.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{settings.ca_certificate} cannot be read ({error.strerror}); restore it from backup"
        ) from error
    with ApiClient(pinned.coordinator.url, ca_pem, _logged(settings, key)) as api:
        answer = _federation(api.call("GET", "/v1/members"))
    return _pin(settings, pinned, answer, key)


def confirm(settings: PartySettings, fingerprints: Mapping[str, str]) -> PinnedFederation:
    """Confirm members by name, each with the fingerprint that its owner read out.

    All or none. Raises ConfigError for an unknown name, SignatureError if a fingerprint is not
    that of the member's pinned key.
    """
    pinned = load_federation(settings.home)
    for name, given in fingerprints.items():
        member = pinned.members.get(name)
        if member is None:
            raise ConfigError(
                f"{name} is no member of this federation; members: "
                f"{', '.join(sorted(pinned.members))}"
            )
        if given.strip().lower() != member.fingerprint:
            raise SignatureError(
                f"the fingerprint given for {name} is not that of the key which the coordinator "
                f"shows ({member.fingerprint}); do not confirm it, ask {name} directly"
            )
        pinned = pinned.confirm(name)
    save_federation(settings.home, pinned)
    return pinned


def _offered(settings: PartySettings, invite: Invite) -> PinnedFederation:
    """What the invite pins; on a repeated join what was pinned then, if it is the same."""
    coordinator = PinnedCoordinator(
        url=invite.control_url,
        superlink=invite.superlink,
        public_key=invite.coordinator_public_key,
        fingerprint=invite.coordinator_fingerprint,
    )
    if not (settings.home / FEDERATION_NAME).exists():
        return PinnedFederation(
            federation=invite.federation,
            coordinator=coordinator,
            requesters=invite.requesters,
            members={},
        )
    known = load_federation(settings.home)
    same = (known.federation, known.coordinator.public_key) == (
        invite.federation,
        invite.coordinator_public_key,
    )
    if not same:
        raise ConfigError(
            f"this party has joined federation {known.federation} already; use another --home "
            "for another federation"
        )
    return known


def _pin(
    settings: PartySettings,
    pinned: PinnedFederation,
    answer: Federation,
    key: SigningKey,
    ca_certificate: str | None = None,
) -> PinnedFederation:
    members = {member.name: bytes.fromhex(member.public_key) for member in answer.members}
    if members.get(settings.party) != key.public:
        raise SignatureError(
            "the coordinator does not show this party's own key for this party; nothing was "
            "changed. Ask the coordinator's operator what happened"
        )
    pinned = pinned.with_members(members).confirm(settings.party)
    if ca_certificate is not None:
        draft = settings.ca_certificate.with_name("ca.crt.new")
        draft.write_text(ca_certificate, encoding="utf-8")
        os.replace(draft, settings.ca_certificate)
    save_federation(settings.home, pinned)
    return pinned


def _node_public_key(settings: PartySettings) -> str:
    path = settings.node_key.with_name(settings.node_key.name + ".pub")
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read; restore it from backup") from error


def _logged(settings: PartySettings, key: SigningKey) -> LoggedRequests:
    """Signs requests; each is in the egress log before it leaves."""
    return LoggedRequests(SignedRequestAuth(settings.party, key), EgressLog(settings.egress))


def _federation(answer: object) -> Federation:
    try:
        return Federation.model_validate(answer)
    except ValidationError as error:
        raise ProtocolError(
            "the coordinator answered with something unexpected; is it the same version?"
        ) from error
