"""Confirming members' fingerprints: by questions to an operator, or given on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import click
import typer

from party_client.enrolment import confirm
from party_client.federation import PinnedFederation
from party_client.settings import PartySettings
from privacy.errors import ConfigError
from privacy.identity import PARTY_PATTERN

_FINGERPRINT = re.compile(r"[0-9a-fA-F]{4}(-[0-9a-fA-F]{4}){4}")


def parse_confirmations(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=FINGERPRINT pairs as a mapping. Raises ConfigError for any other shape."""
    parsed: dict[str, str] = {}
    for pair in pairs:
        name, _, given = pair.partition("=")
        sound = re.fullmatch(PARTY_PATTERN, name) and _FINGERPRINT.fullmatch(given)
        if not sound or name in parsed:
            raise ConfigError(
                "--confirm needs NAME=FINGERPRINT, each name once, such as "
                "bank=0123-4567-89ab-cdef-0123"
            )
        parsed[name] = given.lower()
    return parsed


def settle_members(
    settings: PartySettings, pinned: PinnedFederation, given: Mapping[str, str], ask: bool
) -> PinnedFederation:
    """Confirm what was `given`; with `ask`, ask about every other member that is not confirmed.

    No answer (end of input) is no: the member stays unconfirmed.
    """
    if given:
        pinned = confirm(settings, given)
    if not ask:
        return pinned
    for name, member in sorted(pinned.members.items()):
        if member.confirmed:
            continue
        question = f"Did {name} itself read out {member.fingerprint} to you?"
        try:
            yes = typer.confirm(question, default=False)
        except click.Abort as abort:
            # Click makes one thing of Ctrl-C and of the end of input.
            if not isinstance(abort.__context__, EOFError):
                raise
            typer.echo("")
            break
        if yes:
            pinned = confirm(settings, {name: member.fingerprint})
    return pinned
