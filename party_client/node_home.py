"""A folder of its own for the SuperNode, where that runs under an OS user of its own.

It holds all that this user needs and nothing else of the party: the SuperNode's key pair, the
coordinator's certificate authority, and in node.toml the address, the party's name and the path of
the service's socket.
"""

from __future__ import annotations

import os
import pwd
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from models.plan import PartyName, describe_validation_error
from party_client.federation import load_federation
from party_client.logs import LogFormat
from party_client.settings import PartySettings
from party_client.supernode import SuperNodeFiles
from privacy.errors import ConfigError
from privacy.identity import write_secret

NODE_NAME = "node.toml"
_KEY, _CA = Path("keys/node"), Path("ca.crt")


class _NodeFile(BaseModel):
    """node.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    party: PartyName
    superlink: str
    socket: str
    log_format: LogFormat


@dataclass(frozen=True)
class NodeHome:
    """A node's folder, as read."""

    folder: Path
    files: SuperNodeFiles
    log_format: LogFormat


def is_node_home(folder: Path) -> bool:
    """Whether `export_node_home` made this folder."""
    return (folder / NODE_NAME).exists()


def export_node_home(settings: PartySettings, folder: Path) -> None:
    """Make `folder`, which must not exist yet, and give it to `isolation.node_user`.

    Raises ConfigError, before anything is written, if no such user is set, if there is such a
    folder, or if it lies in the party's own home; and if it cannot be given to that user.
    """
    user = settings.isolation.node_user
    if user is None:
        raise ConfigError("party.toml: isolation.node_user: say first which user the SuperNode has")
    try:
        owner = pwd.getpwnam(user)
    except KeyError as error:
        raise ConfigError(f"this machine has no user {user}; make it first") from error
    if folder.resolve().is_relative_to(settings.home):
        raise ConfigError(f"{folder} is inside the party's home, which that user cannot enter")
    if folder.exists() or folder.is_symlink():
        # Root would follow whatever links that user had put there.
        raise ConfigError(f"{folder} exists already; remove it, or name another")
    node = _NodeFile(
        format=1,
        party=settings.party,
        superlink=load_federation(settings.home).coordinator.superlink,
        socket=str(settings.socket),
        log_format=settings.log.format,
    )
    public = settings.node_key.with_name(settings.node_key.name + ".pub")
    try:
        contents = {
            _KEY: settings.node_key.read_bytes(),
            _KEY.with_name("node.pub"): public.read_bytes(),
            _CA: settings.ca_certificate.read_bytes(),
            Path(NODE_NAME): tomli_w.dumps(node.model_dump()).encode(),
        }
        for made in (folder, folder / _KEY.parent):
            made.mkdir(mode=0o700)
        for name, content in contents.items():
            write_secret(folder / name, content)
        # The folder last: until then nobody else can enter it.
        for made in (*(folder / name for name in contents), folder / _KEY.parent, folder):
            os.chown(made, owner.pw_uid, owner.pw_gid)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made and given to {user} ({error.strerror}); run this as root"
        ) from error


def load_node_home(folder: Path) -> NodeHome:
    """Read a folder that `export_node_home` made. Raises ConfigError naming each wrong field."""
    path = folder / NODE_NAME
    try:
        node = _NodeFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(describe_validation_error(f"file {path}", error)) from error
    files = SuperNodeFiles(
        home=folder,
        party=node.party,
        superlink=node.superlink,
        ca_certificate=folder / _CA,
        node_key=folder / _KEY,
        socket=Path(node.socket),
    )
    return NodeHome(folder, files, node.log_format)
