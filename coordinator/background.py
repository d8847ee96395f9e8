"""What the control plane does besides answering: it sees to it that a run goes on or ends, warns
people, and tells the tracker about runs that ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coordinator.operations import LOOK_SECONDS
from coordinator.server import Service
from coordinator.tracking import Tracker
from privacy.errors import FedtagsError

RECONCILE_SECONDS = 2.0
TRACK_SECONDS = 15.0

logger = logging.getLogger(__name__)


@contextmanager
def background(service: Service) -> Iterator[None]:
    """Until the block ends, in threads: the active run is reconciled every two seconds, alerts are
    looked for once a minute, and what the tracker was not told four times a minute."""
    done = threading.Event()
    tracker = Tracker(service.settings, service.control.runs)
    tasks: list[tuple[float, str, Callable[[], object]]] = [
        (RECONCILE_SECONDS, "the active run", service.control.reconcile),
        (LOOK_SECONDS, "alerts", service.operations.look),
        (TRACK_SECONDS, "the tracker", tracker.look),
    ]
    threads = [
        threading.Thread(target=_repeat, args=(done, *task), name=task[1], daemon=True)
        for task in tasks
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(timeout=10)


def _repeat(done: threading.Event, seconds: float, what: str, task: Callable[[], object]) -> None:
    while not done.wait(seconds):
        try:
            task()
        except FedtagsError as error:
            # The SuperLink may be restarting; the next look decides.
            logger.warning("%s: %s", what, error)
        except Exception:
            logger.exception("%s could not be looked after", what)
