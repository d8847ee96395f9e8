"""The coordinator's settings: HOME/coordinator.toml, and where everything else lies in HOME.

keys/coordinator.pem (signs the run's messages) · keys/requester.pem (signs plans; may move to the
data scientist's machine) · keys/ca.key, ca.crt, keys/server.key, server.crt (TLS) · keys/api.token
(the admin's API token) · keys/token.key (tokens are stored as HMAC-SHA-256 under it) ·
keys/superexec.secret · coordinator.db · logs/ · run/
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.plan import describe_validation_error
from privacy.errors import ConfigError
from privacy.hosting.database import resolve_url

HOME_VARIABLE = "FEDTAGS_COORDINATOR_HOME"
DEFAULT_HOME = Path("~/.fedtags/coordinator")
CONFIG_NAME = "coordinator.toml"

Port = Annotated[int, Field(ge=1, le=65535)]

TEMPLATE = """\
# fedtags coordinator: settings. Restart after a change (fedtags-coordinator stop, then start).
format = 1

# The federation's name, shown to every partner in its invite.
federation = "{federation}"

# The address that every service binds and that invites name. Flower's SuperLink authenticates
# partners on its Fleet API only: keep the loopback address unless a TLS proxy that lets nothing
# but /v1/fleet/ through stands in front.
host = "{host}"

[control]
# The control plane's API (HTTPS): enrolment, plans, runs.
port = {control_port}

[superlink]
# Flower's SuperLink (TLS), which the parties' SuperNodes connect to.
port = {superlink_port}

[invitations]
# How long an invite file can be used, in hours.
valid_hours = 72

[database]
# Runs, parties and token hashes. A relative SQLite path is relative to this file's folder.
url = "sqlite:///coordinator.db"

[diagnostics]
# After every exchange of a run, also send an empty message to the same nodes and record how long
# that takes: it tells a slow network from slow work. Costs one more message each.
time_empty_messages = false
"""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ControlSettings(_Section):
    """The control plane's API."""

    port: Port = 8470


class SuperLinkSettings(_Section):
    """Flower's SuperLink."""

    port: Port = 8471


class InvitationSettings(_Section):
    """`valid_hours`: how long an invite can be used."""

    valid_hours: Annotated[int, Field(ge=1, le=24 * 90)] = 72


class DatabaseSettings(_Section):
    """An SQLAlchemy URL; a relative SQLite path is relative to the home."""

    url: str = "sqlite:///coordinator.db"


class DiagnosticsSettings(_Section):
    """`time_empty_messages`: after every exchange, time an empty one with the same nodes."""

    time_empty_messages: bool = False


class CoordinatorSettings(_Section):
    """What coordinator.toml holds. Build it with `load_settings`."""

    format: Literal[1]
    federation: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")] = "127.0.0.1"
    control: ControlSettings = ControlSettings()
    superlink: SuperLinkSettings = SuperLinkSettings()
    invitations: InvitationSettings = InvitationSettings()
    database: DatabaseSettings = DatabaseSettings()
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
    home: Path = Field(exclude=True)

    @property
    def control_url(self) -> str:
        """The control plane's address."""
        return f"https://{_bracketed(self.host)}:{self.control.port}"

    @property
    def superlink_address(self) -> str:
        """The SuperLink's address, as a SuperNode wants it."""
        return f"{_bracketed(self.host)}:{self.superlink.port}"

    @property
    def database_url(self) -> str:
        """The database's URL with an absolute path."""
        return resolve_url(self.database.url, self.home)

    @property
    def keys(self) -> Path:
        """The folder of secret files (mode 0700)."""
        return self.home / "keys"

    @property
    def coordinator_key(self) -> Path:
        """Ed25519: signs the coordinator's messages of a run."""
        return self.keys / "coordinator.pem"

    @property
    def requester_key(self) -> Path:
        """Ed25519: signs plans."""
        return self.keys / "requester.pem"

    @property
    def api_token(self) -> Path:
        """The admin's API token."""
        return self.keys / "api.token"

    @property
    def token_key(self) -> Path:
        """The key under which tokens are hashed."""
        return self.keys / "token.key"

    @property
    def superexec_secret(self) -> Path:
        """What Flower's SuperExec shows the SuperLink."""
        return self.keys / "superexec.secret"

    @property
    def ca_key(self) -> Path:
        """The certificate authority's key."""
        return self.keys / "ca.key"

    @property
    def ca_certificate(self) -> Path:
        """The certificate authority that partners pin."""
        return self.home / "ca.crt"

    @property
    def server_key(self) -> Path:
        """The servers' TLS key."""
        return self.keys / "server.key"

    @property
    def server_certificate(self) -> Path:
        """The servers' TLS certificate."""
        return self.home / "server.crt"


def load_settings(home: Path) -> CoordinatorSettings:
    """Read HOME/coordinator.toml. Raises ConfigError naming each wrong field and its rule."""
    path = home / CONFIG_NAME
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; run `fedtags-coordinator --home {home} init` first"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    if "home" in raw:
        raise ConfigError(f"{path}: home: unknown key; the home is given by --home")
    try:
        return CoordinatorSettings.model_validate({**raw, "home": home.resolve()})
    except ValidationError as error:
        raise ConfigError(describe_validation_error(f"file {path}", error)) from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
