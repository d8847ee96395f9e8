"""Where a command writes what is meant for a file: standard output, or a private file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from privacy.errors import ConfigError


@contextmanager
def opened_output(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file of mode 0600 that appears whole or not at all.

    Raises ConfigError if the file cannot be written.
    """
    if output is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    draft: str | None = None
    try:
        descriptor, draft = tempfile.mkstemp(dir=output.parent, prefix=".export-")  # mode 0600
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(draft, output)
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be written ({error.strerror}); check the folder and free "
            "disk space"
        ) from error
    finally:
        if draft is not None:
            with suppress(OSError):
                os.unlink(draft)
