"""What the ServerApp does: load the stored run, conduct it over Flower, store how it ended.

Flower starts it in a process of its own for each attempt at a run, with FEDTAGS_COORDINATOR_HOME in
its environment; what it logs goes to logs/serverapp.log of that home. A run that an earlier process
has begun goes on where that one ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import rounds
from coordinator.empty_messages import EmptyMessageTimer
from coordinator.flower_channel import FlowerChannel
from coordinator.member_store import MemberStore
from coordinator.recovery import this_process
from coordinator.run_recorder import RunRecorder
from coordinator.run_store import RunStore
from coordinator.settings import HOME_VARIABLE, CoordinatorSettings, load_settings
from coordinator.superlink import SuperLink, canonical_public_key
from privacy.errors import (
    ConfigError,
    FedtagsError,
    NotRunningError,
    RunError,
    RunInterrupted,
    StoreError,
)
from privacy.identity import SigningKey, read_secret

if TYPE_CHECKING:
    from flwr.serverapp import Grid

logger = logging.getLogger(__name__)

# The control plane names this Flower run a moment after it has started it.
CLAIM_S = 60.0
# After a restart of everything the parties' SuperNodes connect again, within half a minute.
NODES_S = 90.0
POLL_S = 0.2


def conduct(grid: Grid, run_id: str) -> None:
    """Conduct the stored run `run_id` to its end, good or bad. Raises what ended it badly, or what
    ended this process and not the run."""
    home = os.environ.get(HOME_VARIABLE)
    if not home:
        raise ConfigError(f"{HOME_VARIABLE} is not set; start the coordinator by its own command")
    settings = load_settings(Path(home))
    _log_to(settings.home / "logs" / "serverapp.log")
    store = RunStore(settings.database_url)
    try:
        attempt = _claim(store, run_id, str(grid.run.run_id))
        try:
            _conduct(settings, store, grid, run_id, attempt)
        except (RunInterrupted, StoreError) as error:
            logger.error("run %s, attempt %d: %s", run_id, attempt, error)
            _leave(store, run_id, attempt, str(error))
            raise
        except FedtagsError as error:
            logger.error("run %s: %s: %s", run_id, type(error).__name__, error)
            store.fail(run_id, error, attempt)
            raise
        except Exception:
            logger.exception("run %s ended by an unexpected error", run_id)
            unexpected = RunError("the ServerApp failed; see logs/serverapp.log")
            store.fail(run_id, unexpected, attempt)
            raise
        except BaseException as error:  # a signal, or Flower's end of its run
            logger.warning("run %s, attempt %d: %s", run_id, attempt, type(error).__name__)
            _leave(store, run_id, attempt, "its process was told to end")
            raise
    finally:
        store.close()


def _conduct(
    settings: CoordinatorSettings, store: RunStore, grid: Grid, run_id: str, attempt: int
) -> None:
    request = store.load_request(run_id)
    link = SuperLink(settings.superlink_address, settings.ca_certificate)
    try:
        nodes = _nodes(settings, link, request.members)
        if attempt > 1:
            logger.info("run %s: taken up, attempt %d", run_id, attempt)
            _wait_for(link, [nodes[one] for one in store.heard_last(run_id) if one in nodes])
    except (NotRunningError, RunError) as error:
        raise RunInterrupted(str(error)) from error
    flower = FlowerChannel(grid, nodes)
    journal: RunRecorder | EmptyMessageTimer = store.recorder(run_id, attempt)
    if settings.diagnostics.time_empty_messages:
        journal = EmptyMessageTimer(journal, flower)
    signer = SigningKey.load(settings.coordinator_key)
    outcome = rounds.run(request, flower, signer, journal, journal)
    store.finish(run_id, outcome, attempt)
    logger.info("run %s finished", run_id)


def _claim(store: RunStore, run_id: str, flower_run_id: str) -> int:
    deadline = time.monotonic() + CLAIM_S
    while True:
        attempt = store.claim(run_id, flower_run_id, this_process())
        if attempt is not None:
            return attempt
        if time.monotonic() > deadline:
            raise RunInterrupted(f"run {run_id} is executed by another Flower run than this one")
        time.sleep(POLL_S)


def _leave(store: RunStore, run_id: str, attempt: int, reason: str) -> None:
    """Say why, if the run is still this attempt's; if that cannot be stored, nothing is lost."""
    with contextlib.suppress(StoreError):
        store.interrupted(run_id, attempt, reason)


def _nodes(
    settings: CoordinatorSettings, link: SuperLink, members: Collection[str]
) -> Mapping[str, int]:
    """Flower's node id of each member, found by the public key registered at enrolment."""
    by_key = {node.public_key: node.node_id for node in link.nodes()}
    enrolled = MemberStore(settings.database_url, read_secret(settings.token_key))
    try:
        keys = {party.name: party.supernode_public_key for party in enrolled.parties()}
    finally:
        enrolled.close()
    nodes = {name: by_key.get(canonical_public_key(keys[name])) for name in members if name in keys}
    return {name: node for name, node in nodes.items() if node is not None}


def _wait_for(link: SuperLink, nodes: Collection[int]) -> None:
    """Until these nodes are connected, at most NODES_S: one that is not yet would count as lost."""
    deadline = time.monotonic() + NODES_S
    while time.monotonic() < deadline:
        if set(nodes) <= {node.node_id for node in link.nodes() if node.online}:
            return
        time.sleep(1.0)


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
