"""What init makes: settings, keys, certificates, the database, the proxy's configuration.

It prints and returns no secret.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from coordinator.evidence_keys import certify
from coordinator.member_store import MemberStore
from coordinator.people import FIRST_TOKEN, make_first_token, open_access
from coordinator.proxy import write_proxy_config
from coordinator.roles import Permission, Role
from coordinator.settings import (
    CONFIG_NAME,
    TEMPLATE,
    CoordinatorSettings,
    DatabaseSettings,
    load_settings,
)
from privacy.errors import ConfigError
from privacy.hosting.access_log import AccessLog
from privacy.hosting.certificates import create_authority, create_server_certificate
from privacy.hosting.homes import fresh_home
from privacy.hosting.people_commands import os_user
from privacy.identity import SigningKey, fingerprint, read_secret, write_secret


@dataclass(frozen=True)
class Initialised:
    """The public half of what init made."""

    settings: CoordinatorSettings
    coordinator_fingerprint: str
    requester_fingerprint: str


def initialise(
    home: Path,
    federation: str,
    requester: str,
    host: str = "127.0.0.1",
    control_port: int = 8470,
    superlink_port: int = 8471,
    database_url: str = DatabaseSettings().url,
) -> Initialised:
    """Make a coordinator's home. Raises ConfigError, changing nothing, if there is one already, or
    if the database holds one."""
    if (home / CONFIG_NAME).exists():
        raise ConfigError(
            f"{home / CONFIG_NAME} already exists; init never overwrites. Edit it, or choose "
            "another --home"
        )
    with fresh_home(home) as staging:
        text = TEMPLATE.format(
            federation=federation,
            host=host,
            control_port=control_port,
            superlink_port=superlink_port,
        ).replace(json.dumps(DatabaseSettings().url), json.dumps(database_url))
        (staging / CONFIG_NAME).write_text(text, encoding="utf-8")
        settings = load_settings(staging)
        settings.keys.mkdir(mode=0o700)
        coordinator, requester_key = SigningKey.generate(), SigningKey.generate()
        coordinator.save(settings.coordinator_key)
        requester_key.save(settings.requester_key)
        create_authority(settings.ca_certificate, settings.ca_key, federation)
        create_server_certificate(
            settings.server_certificate,
            settings.server_key,
            settings.ca_certificate,
            settings.ca_key,
            [host],
        )
        write_secret(settings.superexec_secret, secrets.token_hex(32).encode())
        write_secret(settings.token_key, secrets.token_bytes(32))
        members = MemberStore(settings.database_url, read_secret(settings.token_key))
        try:
            if members.requesters():
                raise ConfigError("the database holds a coordinator already; give an empty one")
            members.add_requester(requester, requester_key.public)
        finally:
            members.close()
        token = _first_token(settings)
        certify(settings)
        for database in staging.glob("*.db"):
            database.chmod(0o600)
        write_secret(settings.api_token, token.encode() + b"\n")
    settings = load_settings(home)
    write_proxy_config(settings)  # it names files by where they are now
    return Initialised(settings, fingerprint(coordinator.public), fingerprint(requester_key.public))


def _first_token(settings: CoordinatorSettings) -> str:
    """An admin's token, with which the audit log begins."""
    log = AccessLog(settings.audit_log)
    try:
        detail = f"create token {FIRST_TOKEN} as {Role.ADMIN}"
        log.record(os_user(), Permission.MANAGE_PEOPLE.value, allowed=True, detail=detail)
        log.flush()
    finally:
        log.close()
    access = open_access(settings)
    try:
        return make_first_token(access)
    finally:
        access.close()
