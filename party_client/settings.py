"""A party's settings: HOME/party.toml, and where everything else lies in HOME.

policy.toml · catalogue.toml (the party's own changes to the tag catalogue) · keys/identity.pem
(Ed25519: signs this party's messages) · keys/node, keys/node.pub (the SuperNode's key pair) ·
keys/local.key (32 secret bytes: who is held out, digests) · keys/store.key (32 secret bytes: the
profile store's sealed columns) · keys/access.key (32 secret bytes: API tokens, sessions) ·
federation.json, ca.crt (written by join) · ledger.jsonl · egress.jsonl (what left) · access.jsonl
(who looked at what) · peer_heads.json (the peers' ledger heads) · manifest.json (the federation's
members, signed by each) · profile.db · access.db (people, tokens, sessions) · plans/ (plans that
wait for approval) · models/ (of finished runs, sealed) · rejected/ · quality/ · reports/ · logs/ ·
run/
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.plan import PartyName, describe_validation_error
from party_client.source_settings import SourceSettings
from privacy.errors import ConfigError
from privacy.hosting.credentials import SecretReference
from privacy.hosting.database import resolve_url

HOME_VARIABLE = "FEDTAGS_PARTY_HOME"
DEFAULT_HOME = Path("~/.fedtags/party")
CONFIG_NAME = "party.toml"
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_TEMPLATE = """\
# fedtags party: settings. Restart after a change (fedtags-party stop, then start), and try the
# source with `fedtags-party check` before.
format = 1

# This party's name in the federation: the name in the invite.
party = {party}

# The public size N^ of this party: a declared upper bound on its number of customers, rounded up.
# It is public, and every guarantee is computed from it instead of the true number. Keep it for
# the lifetime of the party.
public_size = {public_size}

[source]
# "events": a log with one row per purchase or return. "table": one row per customer, described by
# the plan's own feature contract.
kind = "events"
# A CSV or Parquet file, a glob, or a list of them, relative to this file's folder.
path = "events.parquet"
# Or a database, in place of path: url = "postgresql+psycopg://user@host/name" (or mysql+pymysql,
# duckdb, sqlite) with table = "schema.table" or query = "SELECT ...", and
# password = "file:keys/source.password" (or "env:NAME", "keyring:SERVICE/USER").
# What customers' ids are: "opaque", "phone" (with region = "CN") or "email".
customer_ids = "opaque"
# Every amount is multiplied by this constant, so that all parties speak of one currency.
currency_rate = 1.0
# For CSV only. delimiter = "space" means runs of blanks; without a header, fields = 4 says how many
# fields a line has, and columns are called "#1", "#2" and so on. date_format is a strptime format;
# empty means ISO 8601.
encoding = "utf-8"
delimiter = ","
has_header = true
date_format = ""

[source.columns]
# Canonical name = your own column's name. Needed: customer, time, amount. Optional: quantity,
# type, category, channel.
customer = "customer"
time = "time"
amount = "amount"

# Who consented. Without this part you state that every customer in the source has consented.
# With it, a customer whom the file does not name has not.
# [source.consent]
# path = "consent.csv"
# customer = "customer_id"
# granted = "consent"
# If the file has them: purpose = "purpose", and the moments granted_at, expires_at, withdrawn_at.

[profile_store]
# Where tags are written: SQLite (a relative path is relative to this file's folder), PostgreSQL
# (postgresql+psycopg://user@host/name) or MySQL and MariaDB (mysql+pymysql://user@host/name).
# A password never stands here: password = "file:keys/db.password", "env:NAME" or
# "keyring:SERVICE/USER" says where it is.
url = "sqlite:///profile.db"
# Customers' ids are sealed with this cipher under keys/store.key: "aes-256-gcm" or "sm4-gcm".
cipher = "aes-256-gcm"

[web]
# The node's API and console, for people of this party only.
enabled = true
host = "127.0.0.1"
port = 8480
# Needed for any other host than a loopback one: certificate = "web.crt", key = "keys/web.key".

[log]
# "text", or "json" for a log collector.
format = "text"

# The SuperNode as an OS user of its own, which cannot read this folder: the one user that may
# connect to the socket, which then lies in a folder that both may enter. See deploy-a-party.
# [isolation]
# node_user = "fedtags-node"
# socket = "/run/fedtags/service.sock"

[models]
# Models of finished runs, sealed under keys/store.key, for `fedtags-party model export`: of the
# newest so many runs (0 keeps none), each for so many days.
keep = 20
keep_days = 365

# Changes of tags are sent to a system of yours, signed. Leave it out and nothing is sent.
# [webhook]
# url = "https://crm.example/hooks/tags"
# secret = "file:keys/webhook.secret"
"""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfileStoreSettings(_Section):
    """An SQLAlchemy URL; a relative SQLite path is relative to the home."""

    url: str = "sqlite:///profile.db"
    password: SecretReference | None = None
    cipher: Literal["aes-256-gcm", "sm4-gcm"] = "aes-256-gcm"


class WebSettings(_Section):
    """Where API and console listen. Beyond loopback only with a certificate."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8480
    certificate: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are given together")
        if self.certificate is None and self.host not in LOOPBACK:
            raise ValueError(f"host: without a certificate, one of {', '.join(LOOPBACK)}")
        return self


class LogSettings(_Section):
    """How log lines are written."""

    format: Literal["text", "json"] = "text"


class IsolationSettings(_Section):
    """Who else may connect to the service's socket, and where that lies.

    `node_user`: the OS user that the SuperNode runs under, and the only one that may connect; by
    default the service's own, which isolates nothing between the two.
    """

    node_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    socket: Annotated[str, Field(pattern=r"^/[^\"'\\]*$")] | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.node_user is not None and self.socket is None:
            raise ValueError("socket: needed with node_user, which cannot enter this folder")
        return self


class ModelSettings(_Section):
    """How many runs' models are kept, and for how many days each."""

    keep: Annotated[int, Field(ge=0, le=1000)] = 20
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 365


class WebhookSettings(_Section):
    """Where changes of tags are sent. `secret` signs them."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    secret: SecretReference


class PartySettings(_Section):
    """What party.toml holds. `public_size` is N^. Build it with `load_settings`."""

    format: Literal[1]
    party: PartyName
    public_size: Annotated[int, Field(ge=20, le=10**10)]
    source: SourceSettings
    profile_store: ProfileStoreSettings = ProfileStoreSettings()
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()
    isolation: IsolationSettings = IsolationSettings()
    models: ModelSettings = ModelSettings()
    webhook: WebhookSettings | None = None
    home: Path = Field(exclude=True)

    @property
    def profile_store_url(self) -> str:
        """The profile store's URL with an absolute path."""
        return resolve_url(self.profile_store.url, self.home)

    @property
    def policy(self) -> Path:
        """The party's own policy."""
        return self.home / "policy.toml"

    @property
    def keys(self) -> Path:
        """The folder of secret files (mode 0700)."""
        return self.home / "keys"

    @property
    def identity_key(self) -> Path:
        """Ed25519: signs this party's messages."""
        return self.keys / "identity.pem"

    @property
    def node_key(self) -> Path:
        """The SuperNode's private key; its public half is beside it with .pub."""
        return self.keys / "node"

    @property
    def local_key(self) -> Path:
        """32 secret bytes."""
        return self.keys / "local.key"

    @property
    def ca_certificate(self) -> Path:
        """The coordinator's certificate authority, pinned by join."""
        return self.home / "ca.crt"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.home / "ledger.jsonl"

    @property
    def egress(self) -> Path:
        """Hash-chained: every message that left."""
        return self.home / "egress.jsonl"

    @property
    def access_log(self) -> Path:
        """Hash-chained: who looked at what, and did what."""
        return self.home / "access.jsonl"

    @property
    def access_database(self) -> str:
        """People, API tokens and sessions: an SQLAlchemy URL."""
        return f"sqlite:///{self.home / 'access.db'}"

    @property
    def store_key(self) -> Path:
        """32 secret bytes: seals the profile store's columns."""
        return self.keys / "store.key"

    @property
    def access_key(self) -> Path:
        """32 secret bytes: keys the hashes of API tokens and sessions."""
        return self.keys / "access.key"

    @property
    def catalogue(self) -> Path:
        """The party's own changes to the tag catalogue; need not exist."""
        return self.home / "catalogue.toml"

    @property
    def waiting_plans(self) -> Path:
        """Plans that wait for a person's approval, one folder by hash."""
        return self.home / "plans"

    @property
    def quality(self) -> Path:
        """The newest data-quality results: report.json, report.html."""
        return self.home / "quality"

    @property
    def manifest(self) -> Path:
        """The federation's manifest, signed by its members."""
        return self.home / "manifest.json"

    @property
    def peer_heads(self) -> Path:
        """The newest ledger heads that this party has seen of other members."""
        return self.home / "peer_heads.json"

    @property
    def reports(self) -> Path:
        """This party's own reports, one a run."""
        return self.home / "reports"

    @property
    def kept_models(self) -> Path:
        """Models of finished runs, sealed."""
        return self.home / "models"

    @property
    def socket(self) -> Path:
        """The party service's Unix socket."""
        chosen = self.isolation.socket
        return Path(chosen) if chosen else self.home / "run" / "service.sock"


def party_toml(party: str, public_size: int) -> str:
    """The commented party.toml that init writes."""
    return _TEMPLATE.format(party=json.dumps(party), public_size=public_size)


def load_settings(home: Path) -> PartySettings:
    """Read HOME/party.toml. Raises ConfigError naming each wrong field and its rule."""
    path = home / CONFIG_NAME
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; run `fedtags-party --home {home} init` first"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    if "home" in raw:
        raise ConfigError(f"{path}: home: unknown key; the home is given by --home")
    try:
        return PartySettings.model_validate({**raw, "home": home.resolve()})
    except ValidationError as error:
        raise ConfigError(describe_validation_error(f"file {path}", error)) from error
