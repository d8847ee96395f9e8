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

    `home` gets mode 0700 if it is made here. Raises ConfigError before anything moves if one of
    the entries exists in `home` already; a failed block leaves nothing behind.
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
        for entry in entries:
            entry.rename(home / entry.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
