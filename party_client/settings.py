"""A party's settings: HOME/party.toml, and where everything else lies in HOME.

policy.toml · keys/identity.pem (Ed25519: signs this party's messages) · keys/node, keys/node.pub
(the SuperNode's key pair) · keys/local.key (32 secret bytes: who is held out, digests) ·
federation.json, ca.crt (written by join) · ledger.jsonl · peer_heads.json (the peers' ledger heads)
· manifest.json (the federation's members, signed by each) · profile.db · rejected/ · reports/ ·
logs/ · run/
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.plan import PartyName, describe_validation_error
from party_client.source_settings import SourceSettings
from privacy.errors import ConfigError
from privacy.hosting.database import resolve_url

HOME_VARIABLE = "FEDTAGS_PARTY_HOME"
DEFAULT_HOME = Path("~/.fedtags/party")
CONFIG_NAME = "party.toml"

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

[profile_store]
# Where tags are written. A relative SQLite path is relative to this file's folder.
url = "sqlite:///profile.db"
"""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfileStoreSettings(_Section):
    """An SQLAlchemy URL; a relative SQLite path is relative to the home."""

    url: str = "sqlite:///profile.db"


class PartySettings(_Section):
    """What party.toml holds. `public_size` is N^. Build it with `load_settings`."""

    format: Literal[1]
    party: PartyName
    public_size: Annotated[int, Field(ge=20, le=10**10)]
    source: SourceSettings
    profile_store: ProfileStoreSettings = ProfileStoreSettings()
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
    def socket(self) -> Path:
        """The party service's Unix socket."""
        return self.home / "run" / "service.sock"


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
