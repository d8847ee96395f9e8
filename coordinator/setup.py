"""What init makes: settings, keys, certificates, the database. It prints and returns no secret."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from coordinator.member_store import MemberStore
from coordinator.settings import CONFIG_NAME, TEMPLATE, CoordinatorSettings, load_settings
from privacy.errors import ConfigError
from privacy.hosting.certificates import create_authority, create_server_certificate
from privacy.hosting.homes import fresh_home
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
) -> Initialised:
    """Make a coordinator's home. Raises ConfigError, changing nothing, if there is one already."""
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
        )
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
            members.add_requester(requester, requester_key.public)
            token = members.add_api_token("admin", "admin")
        finally:
            members.close()
        for database in staging.glob("*.db"):
            database.chmod(0o600)
        write_secret(settings.api_token, token.encode() + b"\n")
    return Initialised(
        load_settings(home), fingerprint(coordinator.public), fingerprint(requester_key.public)
    )
