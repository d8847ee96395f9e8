"""The coordinator's settings: HOME/coordinator.toml, and where everything else lies in HOME.

keys/coordinator.pem (signs the run's messages) · keys/requester.pem (signs plans; may move to the
data scientist's machine) · keys/ca.key, ca.crt, keys/server.key, server.crt (TLS) · keys/api.token
(an admin's API token, for the commands on this machine) · keys/token.key (API tokens, sessions and
invitations are stored as HMAC-SHA-256 under it) · keys/superexec.secret · keys/proxy.secret ·
keys/evidence.pem, evidence-key.json · coordinator.db · audit.jsonl (who asked for what) · proxy/
(its configuration and key) · logs/ · run/
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coordinator.roles import kind_of
from coordinator.settings_template import TEMPLATE as TEMPLATE
from models.plan import describe_validation_error
from privacy.errors import ConfigError
from privacy.hosting.credentials import SecretReference
from privacy.hosting.database import resolve_url

HOME_VARIABLE = "FEDTAGS_COORDINATOR_HOME"
DEFAULT_HOME = Path("~/.fedtags/coordinator")
CONFIG_NAME = "coordinator.toml"
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Port = Annotated[int, Field(ge=1, le=65535)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s\x00-\x1f]+$", max_length=2000)]
OptionalName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{0,253}$")]
Minutes = Annotated[int, Field(ge=1, le=60 * 24 * 30)]


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


class RecoverySettings(_Section):
    """`most_restarts`: how often in a row, without progress, a run whose process ended is taken up
    again."""

    most_restarts: Annotated[int, Field(ge=0, le=100)] = 5


class LogSettings(_Section):
    """How log lines are written."""

    format: Literal["text", "json"] = "text"


class AlertSettings(_Section):
    """When people are warned, and the webhook that is told; `secret` (a reference) signs what is
    sent. `budget_below`: share of the lifetime budget that is left. `audit_minutes`: how often
    the audit log is verified."""

    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$", max_length=2000)] = ""
    secret: Annotated[str, Field(pattern=r"^((file|env|keyring):.+)?$")] = ""
    budget_below: Annotated[float, Field(ge=0, lt=1)] = 0.10
    silent_minutes: Minutes = 60
    stalled_minutes: Minutes = 120
    audit_minutes: Minutes = 60

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if bool(self.url) != bool(self.secret):
            raise ValueError("url and secret are given together")
        return self


class ProxySettings(_Section):
    """The proxy in front: `enabled`, the services stand behind it and invites name its addresses.

    `listen`: the address that it listens on; :: is every one of IPv6.
    `name`: partners' host name for it; `people_name`: that of this coordinator's people, by
    default the same. Files are relative to the home; `people_certificate` and `people_key` are
    ones that browsers know, by default the federation's own. With `partners_ca`, partners must
    show a certificate by this authority.
    """

    enabled: bool = False
    listen: HostName = "0.0.0.0"  # noqa: S104  it is there to be reached
    name: OptionalName = ""
    partners_port: Port = 8443
    people_name: OptionalName = ""
    people_port: Port = 8444
    people_certificate: str = ""
    people_key: str = ""
    partners_ca: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enabled and not self.name:
            raise ValueError("name: needed when enabled")
        if bool(self.people_certificate) != bool(self.people_key):
            raise ValueError("people_certificate and people_key are given together")
        if self.partners_port == self.people_port:
            raise ValueError("people_port: another port than partners_port")
        return self


class OidcSettings(_Section):
    """Signing in at an OpenID Connect provider.

    `client_secret`: needed unless the client is registered as a public one. `name_claim` becomes
    the person's name here. `role_claim`: a word or a list of words, which `roles` maps to roles;
    of several, the role named first in `roles` counts. `ca_certificate`: whom the provider's
    certificate is by, relative to the home, if not by a public authority.
    """

    issuer: HttpUrl
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    client_secret: SecretReference | None = None
    scopes: tuple[Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,100}$")], ...] = (
        "openid",
        "profile",
        "email",
    )
    name_claim: Annotated[str, Field(min_length=1, max_length=100)] = "email"
    role_claim: Annotated[str, Field(min_length=1, max_length=100)] = "groups"
    roles: Mapping[Annotated[str, Field(min_length=1, max_length=255)], str] = Field(min_length=1)
    ca_certificate: str | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.issuer.startswith("https://") and not _on_loopback(self.issuer):
            raise ValueError("issuer: https, but for a provider on this machine")
        if "openid" not in self.scopes:
            raise ValueError("scopes: openid is needed")
        unknown = [role for role in self.roles.values() if kind_of(role) is None]
        if unknown:
            raise ValueError(
                "roles: the right side is admin, data-scientist, reviewer or party-operator:PARTY"
            )
        return self


class TrackingSettings(_Section):
    """An MLflow server. `token`: what it wants as bearer token, if anything."""

    uri: HttpUrl
    experiment: Annotated[str, Field(pattern=r"^[^\x00-\x1f/]{1,200}$")] | None = None
    token: SecretReference | None = None


class CoordinatorSettings(_Section):
    """What coordinator.toml holds. Build it with `load_settings`."""

    format: Literal[1]
    federation: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    host: HostName = "127.0.0.1"
    control: ControlSettings = ControlSettings()
    superlink: SuperLinkSettings = SuperLinkSettings()
    invitations: InvitationSettings = InvitationSettings()
    database: DatabaseSettings = DatabaseSettings()
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
    recovery: RecoverySettings = RecoverySettings()
    log: LogSettings = LogSettings()
    alerts: AlertSettings = AlertSettings()
    proxy: ProxySettings = ProxySettings()
    oidc: OidcSettings | None = None
    tracking: TrackingSettings | None = None
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
    def invited_control_url(self) -> str:
        """Where partners reach what they may ask of the control plane; invites name it."""
        return f"https://{self.invited_superlink}" if self.proxy.enabled else self.control_url

    @property
    def invited_superlink(self) -> str:
        """Where partners' SuperNodes reach the SuperLink; invites name it."""
        proxy = self.proxy
        if not proxy.enabled:
            return self.superlink_address
        return f"{_bracketed(proxy.name)}:{proxy.partners_port}"

    @property
    def people_url(self) -> str:
        """Where this coordinator's people reach API and pages, as a browser writes it."""
        proxy = self.proxy
        if not proxy.enabled:
            return self.control_url.removesuffix(":443")
        name = _bracketed(proxy.people_name or proxy.name)
        return f"https://{name}:{proxy.people_port}".removesuffix(":443")

    @property
    def proxy_folder(self) -> Path:
        """The proxy's configuration."""
        return self.home / "proxy"

    @property
    def proxy_secret(self) -> Path:
        """What the proxy shows the control plane, so that its word on addresses counts."""
        return self.keys / "proxy.secret"

    @property
    def audit_log(self) -> Path:
        """Hash-chained: who asked the coordinator for what."""
        return self.home / "audit.jsonl"

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
        """An admin's API token, for the commands on this machine."""
        return self.keys / "api.token"

    @property
    def token_key(self) -> Path:
        """The key under which API tokens, sessions and invitations are hashed."""
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


def _on_loopback(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
