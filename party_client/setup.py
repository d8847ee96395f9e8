"""What init makes at a party: settings, policy, keys, ledger. It prints and returns no secret."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from party_client.policy import default_policy_text, load_policy
from party_client.provenance import code_version
from party_client.settings import CONFIG_NAME, PartySettings, load_settings, party_toml
from privacy.errors import ConfigError
from privacy.hosting.certificates import create_node_key
from privacy.hosting.enrolment import NamedKey
from privacy.hosting.homes import fresh_home
from privacy.identity import SigningKey, write_secret
from privacy.ledger import Ledger


def initialise(home: Path, party: str, public_size: int) -> PartySettings:
    """Make a party's home. Raises ConfigError, changing nothing, if there is one already."""
    if (home / CONFIG_NAME).exists():
        raise ConfigError(
            f"{home / CONFIG_NAME} already exists; init never overwrites. Edit it, or choose "
            "another --home"
        )
    with fresh_home(home) as staging:
        (staging / CONFIG_NAME).write_text(party_toml(party, public_size), encoding="utf-8")
        settings = load_settings(staging)
        settings.policy.write_text(default_policy_text([], public_size), encoding="utf-8")
        budget = load_policy(settings.policy).budget
        settings.keys.mkdir(mode=0o700)
        SigningKey.generate().save(settings.identity_key)
        create_node_key(settings.node_key)
        for secret in (settings.local_key, settings.store_key, settings.access_key):
            write_secret(secret, secrets.token_bytes(32))
        Ledger.create(
            settings.ledger,
            party=party,
            cap_epsilon=budget.epsilon,
            cap_delta=budget.delta,
            code_version=code_version(),
        )
    return load_settings(home)


def admit_requesters(settings: PartySettings, requesters: Sequence[NamedKey]) -> bool:
    """Name the invite's requesters in a policy that names none yet; join shows their fingerprints.

    Returns False, leaving the file alone, if it names others: the operator decides then.
    """
    wanted = [requester.fingerprint for requester in requesters]
    return _admit(settings, "requesters", load_policy(settings.policy).requesters, wanted)


def admit_coordinator(settings: PartySettings, fingerprint: str) -> bool:
    """Name the invite's coordinator in a policy that names none yet; False as `admit_requesters`.

    A policy from before there was this key allows the coordinator that join pinned: True.
    """
    named = load_policy(settings.policy).coordinators
    return named is None or _admit(settings, "coordinators", named, [fingerprint])


def _admit(settings: PartySettings, key: str, named: frozenset[str], wanted: Sequence[str]) -> bool:
    if not named and wanted:
        text = settings.policy.read_text(encoding="utf-8")
        listed = ", ".join(f'"{item}"' for item in wanted)
        empty = re.compile(rf"^{key} = \[\]$", re.MULTILINE)
        changed, count = empty.subn(f"{key} = [{listed}]", text)
        if count == 1:
            settings.policy.write_text(changed, encoding="utf-8")
            return True
    return named >= set(wanted)
