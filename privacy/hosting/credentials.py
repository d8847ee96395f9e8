"""Where a secret of the operator's lies: a reference in the settings, never the secret itself.

`file:PATH` (relative to the home), `env:NAME`, `keyring:SERVICE/USER`. The one doorway to keyring.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

from pydantic import Field

from privacy.errors import ConfigError

# What a settings file may hold in place of a secret.
SecretReference = Annotated[str, Field(pattern=r"^(file|env|keyring):.+$")]

_LONGEST = 64 * 1024  # bytes
_OTHERS = stat.S_IROTH | stat.S_IWOTH


def resolve_secret(reference: str, home: Path) -> str:
    """The secret that `reference` names: one line of text, without its line end.

    Raises ConfigError, which names the reference and never what it holds, for one that is not of
    the three forms, that names nothing, or whose file every user of this machine can read.
    """
    kind, _, name = reference.partition(":")
    readers = {"file": _from_file, "env": _from_environment, "keyring": _from_keyring}
    if kind not in readers or not name:
        # Not shown: whoever writes a password where a reference belongs would find it in a log.
        raise ConfigError(
            "a secret is given by reference: file:PATH, env:NAME or keyring:SERVICE/USER; the "
            "setting holds something else"
        )
    secret = readers[kind](name, home)
    if not secret or "\n" in secret or "\r" in secret or "\0" in secret:
        raise ConfigError(f"{reference} must hold one line of text that is not empty")
    return secret


def _from_file(name: str, home: Path) -> str:
    path = home / name
    try:
        # Without waiting: a path that names a pipe would hold the service up.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"file:{name} is no file: name one that holds the secret")
            if status.st_mode & _OTHERS:
                raise ConfigError(
                    f"file:{name} can be read or changed by every user of this machine: make it "
                    "yours alone with chmod 600"
                )
            raw = file.read(_LONGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"file:{name} cannot be read ({error.strerror}): it is relative to the home"
        ) from error
    if len(raw) > _LONGEST:
        raise ConfigError(f"file:{name} is longer than {_LONGEST} bytes: it is no secret")
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"file:{name} is not UTF-8 text: write the secret as text") from None


def _from_environment(name: str, home: Path) -> str:
    try:
        return os.environ[name]
    except (KeyError, ValueError):
        raise ConfigError(
            f"env:{name} is not set: set it in the environment of the service's processes"
        ) from None


def _from_keyring(name: str, home: Path) -> str:
    service, _, user = name.rpartition("/")
    if not service or not user:
        raise ConfigError("keyring: the form is keyring:SERVICE/USER")
    import keyring
    from keyring.errors import KeyringError

    try:
        secret: str | None = keyring.get_password(service, user)
    except (KeyringError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"keyring:{name} cannot be read ({type(error).__name__}): a keyring must be there and "
            "unlocked for this user; where there is none, use file: or env:"
        ) from None
    if secret is None:
        raise ConfigError(f"keyring:{name} is not in the keyring: add it with `keyring set`")
    return secret
