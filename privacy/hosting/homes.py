"""Home folders: made whole by init or not at all, and never overwritten."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.errors import ConfigError


@contextmanager
def fresh_home(home: Path) -> Iterator[Path]:
    """A private folder to fill; when the block ends well, its entries move into `home`.

    `home` gets mode 0700, also if it exists and other users may enter it. Raises ConfigError
    before anything moves if one of the entries exists in `home` already, or if `home` cannot be
    closed to others; a failed block leaves nothing behind.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".init-", dir=home))
    except OSError as error:
        raise ConfigError(
            f"folder {home} cannot be written ({error.strerror}); choose another --home"
        ) from error
    try:
        yield staging
        entries = sorted(staging.iterdir())
        for entry in entries:
            if (home / entry.name).exists():
                raise ConfigError(
                    f"{home / entry.name} already exists and is never overwritten; choose "
                    "another --home, or move the old folder away"
                )
        if home.stat().st_mode & 0o077:
            _close(home)
        for entry in entries:
            entry.rename(home / entry.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _close(home: Path) -> None:
    try:
        home.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"folder {home} is open to other users and is not yours to close "
            f"({error.strerror}); choose another --home"
        ) from error
