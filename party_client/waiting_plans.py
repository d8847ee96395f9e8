"""Plans that were asked for and need a person: HOME/plans/HASH/plan.toml and request.json.

A plan is kept as the bytes that were signed, so that a person decides about exactly what would run.
Decisions are not here: they are in the ledger. A folder is believed only if its plan has its hash.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from models.plan import MAX_PLAN_BYTES, plan_digest
from party_client.durable_file import replace_durably
from privacy.errors import ConfigError, NotFound
from privacy.identity import RUN_ID_PATTERN

LOG = logging.getLogger(__name__)
MAX_WAITING = 100
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_PLAN, _REQUEST = "plan.toml", "request.json"


class Request(BaseModel):
    """Who asked for a plan, when, and how often. `requester`: fingerprint of the key that signed;
    `requester_name`: what the invite called it; `run`: the newest run asked for; `cause`: why the
    newest was refused (`party_client.approvals.Cause`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    requester: str
    requester_name: str
    run: Annotated[str, Field(pattern=RUN_ID_PATTERN)]
    cause: str
    first_asked: AwareDatetime
    asked: AwareDatetime
    times: Annotated[int, Field(ge=1)] = 1


class WaitingPlans:
    """The folder `path`. It need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def digests(self) -> tuple[str, ...]:
        """The hash of every plan that is kept."""
        if not self._path.is_dir():
            return ()
        found = (one.name for one in self._path.iterdir() if (one / _REQUEST).is_file())
        return tuple(sorted(name for name in found if _DIGEST.fullmatch(name)))

    def find(self, prefix: str) -> str:
        """The whole hash that begins with `prefix`, 8 hexadecimal digits or more. Raises NotFound
        if no plan's does, ConfigError for anything else and for more than one."""
        if _PREFIX.fullmatch(prefix) is None:
            raise ConfigError("a plan is named by its hash: 8 to 64 digits from 0-9 and a-f")
        found = [one for one in self.digests() if one.startswith(prefix)]
        if len(found) > 1:
            raise ConfigError("more than one plan's hash begins so; give more digits")
        if not found:
            raise NotFound(
                "no plan of this hash was asked for here; `fedtags-party plan list --all` lists "
                "those that were"
            )
        return found[0]

    def read(self, digest: str) -> tuple[bytes, Request]:
        """A plan's bytes and who asked for it. Raises NotFound, or ConfigError if a file was
        damaged or is not the plan of this hash."""
        if _DIGEST.fullmatch(digest) is None or digest not in self.digests():
            self.find(digest)
        folder = self._path / digest
        try:
            source = (folder / _PLAN).read_bytes()
            request = Request.model_validate_json((folder / _REQUEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{folder} is damaged; remove it and have the plan sent again") from (
                error
            )
        if plan_digest(source) != digest:
            raise ConfigError(
                f"{folder / _PLAN} is not the plan that was asked for: its hash is another; remove "
                "the folder and have the plan sent again"
            )
        return source, request

    def known(self, digest: str) -> bool:
        """Whether this plan is kept, whole."""
        try:
            self.read(digest)
        except (ConfigError, NotFound):
            return False
        return True

    def keep(
        self,
        source: bytes,
        *,
        requester: str,
        requester_name: str,
        run: str,
        cause: str,
        room: bool,
        moment: datetime | None = None,
    ) -> bool:
        """Keep a plan that was asked for, or note that it was asked for again. Files have mode
        0600.

        False, with a line in the log, if it is new and there is no `room`, or the disk has none:
        nobody will see it then, and the plans that wait already stay.
        """
        now = datetime.now(UTC) if moment is None else moment
        digest = plan_digest(source)
        first, times = now, 1
        if self.known(digest):
            before = self.read(digest)[1]
            first, times = before.first_asked, before.times + 1
        elif not room or len(source) > MAX_PLAN_BYTES:
            LOG.warning(
                "plan %s is not kept: %s wait already; decide about some (fedtags-party plan list)",
                digest,
                MAX_WAITING,
            )
            return False
        request = Request(
            requester=requester,
            requester_name=requester_name,
            run=run,
            cause=cause,
            first_asked=first,
            asked=now,
            times=times,
        )
        try:
            folder = self._path / digest
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_durably(folder / _PLAN, source)
            replace_durably(folder / _REQUEST, request.model_dump_json(indent=2).encode() + b"\n")
        except OSError as error:
            LOG.error("plan %s cannot be kept for a person: %s", digest, error.strerror)
            return False
        return True
