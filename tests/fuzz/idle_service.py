"""One idle party of a simulated market, which hostile frames are sent to."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path

from privacy.identity import sign_plan
from privacy.messages import Body, Header, manifest_hash
from tests.fuzz.samples import COORDINATOR_SAMPLES, PLAN, header


class _Unexpected(logging.Handler):
    """Keeps what the service has caught as an error of its own software."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


class Service:
    """The party "bank", with the keys of its coordinator and of a requester that it admits."""

    def __init__(self) -> None:
        from party_client import service
        from privacy.randomness import system_entropy
        from simulations.homes import offline_federation
        from simulations.population import write_market

        folder = Path(tempfile.mkdtemp(prefix="fedtags-fuzz-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        sources = write_market(folder, 300)
        self.federation = offline_federation(folder, sources, dict.fromkeys(sources, 300))
        self.party = service.PartyService(self.federation.homes["bank"], system_entropy)
        self.unexpected = _Unexpected()
        service.LOG.addHandler(self.unexpected)
        atexit.register(_end_service)

    def header(self) -> Header:
        """As the coordinator would begin a run with this party."""
        manifest = manifest_hash(self.federation.members)
        return header().model_copy(update={"round": 0, "manifest": manifest})

    def preflight(self) -> Body:
        requester = self.federation.requester
        return COORDINATOR_SAMPLES[0].model_copy(
            update={
                "requester": requester.public,
                "requester_signature": sign_plan(requester, "run-1", PLAN),
                "cohort": dict(self.federation.members),
            }
        )


party_service = cache(Service)


def _end_service() -> None:
    party_service().party.close()
    party_service.cache_clear()
