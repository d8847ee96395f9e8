"""What the ServerApp does: load the stored run, conduct it over Flower, store how it ended.

Flower starts it in a process of its own for each run, with FEDTAGS_COORDINATOR_HOME in its
environment; what it logs goes to logs/serverapp.log of that home.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import rounds
from coordinator.channel import Recorder
from coordinator.empty_messages import EmptyMessageTimer
from coordinator.flower_channel import FlowerChannel
from coordinator.member_store import MemberStore
from coordinator.run_store import RunStore
from coordinator.settings import HOME_VARIABLE, CoordinatorSettings, load_settings
from coordinator.superlink import SuperLink, canonical_public_key
from privacy.errors import ConfigError, FedtagsError, RunError
from privacy.identity import SigningKey, read_secret

if TYPE_CHECKING:
    from flwr.serverapp import Grid

logger = logging.getLogger(__name__)


def conduct(grid: Grid, run_id: str) -> None:
    """Conduct the stored run `run_id` to its end, good or bad. Raises what ended it badly."""
    home = os.environ.get(HOME_VARIABLE)
    if not home:
        raise ConfigError(f"{HOME_VARIABLE} is not set; start the coordinator by its own command")
    settings = load_settings(Path(home))
    _log_to(settings.home / "logs" / "serverapp.log")
    store = RunStore(settings.database_url)
    try:
        request = store.load_request(run_id)
        flower = FlowerChannel(grid, _nodes(settings, request.members))
        recorder: Recorder = store.recorder(run_id)
        if settings.diagnostics.time_empty_messages:
            recorder = EmptyMessageTimer(recorder, flower)
        signer = SigningKey.load(settings.coordinator_key)
        outcome = rounds.run(request, flower, signer, recorder)
        store.finish(run_id, outcome)
        logger.info("run %s finished", run_id)
    except FedtagsError as error:
        logger.error("run %s: %s: %s", run_id, type(error).__name__, error)
        store.fail(run_id, error)
        raise
    except BaseException:
        logger.exception("run %s ended by an unexpected error", run_id)
        store.fail(run_id, RunError("the ServerApp failed; see logs/serverapp.log"))
        raise
    finally:
        store.close()


def _nodes(settings: CoordinatorSettings, members: Collection[str]) -> Mapping[str, int]:
    """Flower's node id of each member, found by the public key registered at enrolment."""
    link = SuperLink(settings.superlink_address, settings.ca_certificate)
    by_key = {node.public_key: node.node_id for node in link.nodes()}
    enrolled = MemberStore(settings.database_url, read_secret(settings.token_key))
    try:
        keys = {party.name: party.supernode_public_key for party in enrolled.parties()}
    finally:
        enrolled.close()
    nodes = {name: by_key.get(canonical_public_key(keys[name])) for name in members if name in keys}
    return {name: node for name, node in nodes.items() if node is not None}


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
