"""Party homes made by program: settings with a given source, and (without a network) a federation.

`configure_source` is what the demo does instead of an operator's editor. `offline_federation` does
what invitations, `join` and confirmed fingerprints do, for services that run without Flower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from party_client.federation import Member, PinnedCoordinator, PinnedFederation, save_federation
from party_client.settings import load_settings
from party_client.setup import admit_coordinator, admit_requesters, initialise
from party_client.source_settings import SourceSettings
from privacy.hosting.enrolment import NamedKey
from privacy.identity import SigningKey, fingerprint

_SOURCE, _STORE = "\n[source]\n", "\n[profile_store]\n"


@dataclass(frozen=True)
class Federation:
    """Homes by party, and the keys that the coordinator's organisation would hold."""

    homes: Mapping[str, Path]
    coordinator: SigningKey
    requester: SigningKey
    members: Mapping[str, bytes]


def configure_source(home: Path, source: SourceSettings) -> None:
    """Put `source` in place of party.toml's [source] part; the rest stays as init wrote it."""
    path = home / "party.toml"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(_SOURCE, 1)
    after = rest.split(_STORE, 1)[1]
    values = source.model_dump(mode="python", exclude_defaults=True)
    values["kind"] = source.kind
    part = tomli_w.dumps({"source": _without_none(values)})
    # Several homes on one machine cannot share the console's port.
    after = after.replace("enabled = true", "enabled = false")
    path.write_text(f"{before}\n{part}{_STORE}{after}", encoding="utf-8")
    load_settings(home)


def _tell_nobody(policy: Path) -> None:
    """Where no coordinator listens, [disclosure] of policy.toml allows nothing."""
    text = policy.read_text(encoding="utf-8")
    before, part = text.split("\n[disclosure]\n", 1)
    part, after = part.split("\n[", 1)
    part = part.replace("= true", "= false")
    policy.write_text(f"{before}\n[disclosure]\n{part}\n[{after}", encoding="utf-8")


def _without_none(value: object) -> object:
    """TOML has no null: a key without a value is left out."""
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(one) for one in value]
    return value


def offline_federation(
    folder: Path, sources: Mapping[str, SourceSettings], public_sizes: Mapping[str, int]
) -> Federation:
    """Make folder/PARTY for each source, all members confirmed, no network needed."""
    coordinator, requester = SigningKey.generate(), SigningKey.generate()
    homes = {party: folder / party for party in sources}
    members = {}
    for party, home in homes.items():
        settings = initialise(home, party, public_sizes[party])
        members[party] = SigningKey.load(settings.identity_key).public
        configure_source(home, sources[party])
    named = NamedKey(name="science", public_key=requester.public.hex())
    pinned = PinnedFederation(
        federation="local",
        coordinator=PinnedCoordinator(
            url="https://127.0.0.1:1",
            superlink="127.0.0.1:2",
            public_key=coordinator.public.hex(),
            fingerprint=fingerprint(coordinator.public),
        ),
        requesters=(named,),
        members={
            party: Member(public_key=key.hex(), fingerprint=fingerprint(key), confirmed=True)
            for party, key in members.items()
        },
    )
    for home in homes.values():
        save_federation(home, pinned)
        _tell_nobody(load_settings(home).policy)
        admit_requesters(load_settings(home), [named])
        admit_coordinator(load_settings(home), pinned.coordinator.fingerprint)
    return Federation(homes, coordinator, requester, members)
