"""Finished runs in an MLflow server of the coordinator's organisation, where [tracking] names one.

A run's public facts go there as parameters, its released figures as metrics: all of it lies in the
run store already, and no party is asked for anything. A run that ended is told once: MLflow is
searched for it first, and whatever a broken connection left half told is completed. The server is
asked from the background alone, so that it can be slow, away or wrong without harm to a run.

MLflow's REST API 2.0 is spoken directly: its client would bring a dozen packages, some of which
need older ones than Flower has.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

import httpx

from coordinator.desk_store import DeskStore
from coordinator.run_store import RunRecord, RunStore
from coordinator.settings import CoordinatorSettings, TrackingSettings
from models.plan import Plan, parse_plan
from privacy.errors import FedtagsError, NotRunningError, ProtocolError
from privacy.hosting.credentials import resolve_secret

TIMEOUT_SECONDS: Final = 30.0
EVERY_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 120.0
# Runs that ended before that many newer ones are not looked for.
NEWEST: Final = 50
MAX_ANSWER_BYTES: Final = 1024 * 1024
_API: Final = "/api/2.0/mlflow"
_RUN, _FEDERATION, _WHOLE = "fedtags.run", "fedtags.federation", "fedtags.whole"
_STATUS: Mapping[str, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_LONGEST_VALUE = 500

logger = logging.getLogger(__name__)


def track(settings: CoordinatorSettings, store: RunStore, run_id: str) -> bool:
    """Tell the tracker about a run, once. True if the tracker has it whole now.

    False if no tracker is set, or the run has not ended. Raises NotRunningError (the tracker does
    not answer), ProtocolError (it answers something else than MLflow does, or refuses), ConfigError
    (its token) or StoreError (no such run). To repeat it is safe, also after a failure half-way.
    """
    if settings.tracking is None:
        return False
    record = store.get(run_id)
    if record.state not in _STATUS:
        return False
    with _Mlflow(settings.tracking, settings) as mlflow:
        experiment = mlflow.experiment(
            settings.tracking.experiment or f"fedtags-{settings.federation}"
        )
        found = mlflow.find(experiment, settings.federation, run_id)
        if found is not None and found[1]:
            return True
        known = (
            mlflow.create(experiment, settings.federation, record) if found is None else found[0]
        )
        mlflow.log(known, _parameters(settings, record, store), _metrics(record, store), record)
        mlflow.end(known, record)
    return True


class Tracker:
    """Looks for runs that ended and are not told yet. `look` is called again and again."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        store: RunStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._clock = settings, store, clock
        self._told: set[str] = set()
        self._not_before = -math.inf

    def look(self) -> int:
        """Tell what is to be told; how many runs that were. Never raises.

        After a failure the tracker is left alone for two minutes.
        """
        if self._settings.tracking is None or self._clock() < self._not_before:
            return 0
        told, failed = 0, False
        try:
            for run_id in self._untold():
                try:
                    told += self._tell(run_id)
                except NotRunningError:
                    raise
                except FedtagsError as error:  # of this run alone, perhaps: the others are told
                    logger.warning("the tracker was not told about run %s: %s", run_id, error)
                    failed = True
        except FedtagsError as error:
            logger.warning("the tracker was not told about a run: %s", error)
            failed = True
        except Exception:
            logger.exception("the tracker was not told about a run, by an error of fedtags")
            failed = True
        if failed:
            self._not_before = self._clock() + RETRY_SECONDS
        return told

    def _untold(self) -> list[str]:
        """Runs that ended and are not known to be told, oldest first."""
        newest = self._store.list_runs(NEWEST)
        ended = [one.run_id for one in reversed(newest) if one.state in _STATUS]
        self._told &= set(ended)
        return [run_id for run_id in ended if run_id not in self._told]

    def _tell(self, run_id: str) -> bool:
        if not track(self._settings, self._store, run_id):
            return False
        self._told.add(run_id)
        return True


class _Mlflow:
    """MLflow's REST API: the five calls that are needed."""

    def __init__(self, tracking: TrackingSettings, settings: CoordinatorSettings) -> None:
        headers = {}
        if tracking.token is not None:
            token = resolve_secret(tracking.token, settings.home)
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=str(tracking.uri).rstrip("/") + _API,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, which is made if there is none."""
        found = self._call(
            "GET", "/experiments/get-by-name", {"experiment_name": name}, missing_is_none=True
        )
        if found is not None:
            return _text(found, "experiment", "experiment_id")
        return _text(self._call("POST", "/experiments/create", {"name": name}), "experiment_id")

    def find(self, experiment: str, federation: str, run_id: str) -> tuple[str, bool] | None:
        """The id of the run, and whether it was told whole; None if there is none."""
        # Both names have a pattern without quotes.
        wanted = f"tags.`{_RUN}` = '{run_id}' and tags.`{_FEDERATION}` = '{federation}'"
        body = {"experiment_ids": [experiment], "filter": wanted, "max_results": 2}
        runs = self._call("POST", "/runs/search", body).get("runs") or []
        if not isinstance(runs, list):
            raise _unexpected()
        for run in runs[:1]:
            tags = run.get("data", {}).get("tags", []) if isinstance(run, dict) else []
            whole = any(isinstance(one, dict) and one.get("key") == _WHOLE for one in tags)
            return _text(run, "info", "run_id"), whole
        return None

    def create(self, experiment: str, federation: str, record: RunRecord) -> str:
        """A new run; returns its id."""
        tags = {
            _RUN: record.run_id,
            _FEDERATION: federation,
            "fedtags.plan": record.plan_digest,
            "fedtags.state": record.state,
            **({"fedtags.error": record.error} if record.error else {}),
        }
        body = {
            "experiment_id": experiment,
            "run_name": f"{record.plan_name} {record.run_id}",
            "start_time": _milliseconds(record.started_at or record.created_at),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        return _text(self._call("POST", "/runs/create", body), "run", "info", "run_id")

    def log(
        self,
        known: str,
        parameters: Mapping[str, str],
        metrics: Mapping[str, float],
        record: RunRecord,
    ) -> None:
        """Add parameters and metrics. At the same moment as before, so the same again adds none."""
        at = _milliseconds(record.ended_at or record.created_at)
        body = {
            "run_id": known,
            "params": [
                {"key": key, "value": value[:_LONGEST_VALUE]} for key, value in parameters.items()
            ],
            "metrics": [
                {"key": key, "value": value, "timestamp": at, "step": record.total_rounds or 0}
                for key, value in metrics.items()
                if math.isfinite(value)
            ],
        }
        self._call("POST", "/runs/log-batch", body)

    def end(self, known: str, record: RunRecord) -> None:
        """Say how the run ended, and then that all of it was told."""
        body = {
            "run_id": known,
            "status": _STATUS[record.state],
            "end_time": _milliseconds(record.ended_at or record.created_at),
        }
        self._call("POST", "/runs/update", body)
        self._call("POST", "/runs/set-tag", {"run_id": known, "key": _WHOLE, "value": "yes"})

    def _call(
        self, method: str, path: str, body: Mapping[str, Any], *, missing_is_none: bool = False
    ) -> Any:
        given: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        try:
            with self._http.stream(method, path, **given) as response:
                content = b""
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise _unexpected()
        except httpx.HTTPError as error:
            raise NotRunningError(
                f"the tracker does not answer ({type(error).__name__}); check [tracking] uri"
            ) from error
        try:
            answer = httpx.Response(response.status_code, content=content).json()
        except (ValueError, RecursionError) as error:
            raise _unexpected() from error
        if not isinstance(answer, dict):
            raise _unexpected()
        code = answer.get("error_code")
        if missing_is_none and code == "RESOURCE_DOES_NOT_EXIST":
            return None
        if not response.is_success:
            # The server's own words may repeat what it was sent; its code is enough.
            shown = code if isinstance(code, str) and code.isidentifier() else "no code"
            raise ProtocolError(f"the tracker refused ({response.status_code}, {shown})")
        return answer


def _parameters(
    settings: CoordinatorSettings, record: RunRecord, store: RunStore
) -> dict[str, str]:
    """Public constants of the plan, and who took part."""
    # `store.load_request` would bring a run's own code into the control plane.
    with closing(DeskStore(settings.database_url)) as desk:
        plan = parse_plan(desk.one(record.run_id)["plan_source"])
    return {
        "parties": ", ".join(sorted(store.members_of(record.run_id))),
        **{key: str(value) for key, value in _plan_facts(plan).items()},
    }


def _plan_facts(plan: Plan) -> dict[str, object]:
    return {
        "plan": plan.name,
        "purpose": plan.purpose,
        "task": plan.task.kind,
        "horizon_days": plan.task.horizon_days,
        "family": plan.model.family,
        "hidden": ", ".join(map(str, plan.model.hidden)) or "none",
        "rounds": plan.training.rounds,
        "local_steps": plan.training.local_steps,
        "sample_rate": plan.training.sample_rate,
        "clipping_norm": plan.training.clipping_norm,
        "engine": plan.training.engine,
        "epsilon": plan.privacy.epsilon,
        "evaluation_epsilon": plan.privacy.evaluation_epsilon,
        "weights": plan.aggregation.weights,
        "tags": ", ".join(plan.publication.tags) or "none",
    }


def _metrics(record: RunRecord, store: RunStore) -> dict[str, float]:
    """Released figures, and what the coordinator measured itself."""
    exchanges = store.exchanges_of(record.run_id)
    measured = {
        "bytes_up": float(sum(sum(one.bytes_up.values()) for one in exchanges)),
        "bytes_down": float(sum(sum(one.bytes_down.values()) for one in exchanges)),
        "exchange_seconds": sum(one.seconds for one in exchanges),
    }
    if record.started_at is not None and record.ended_at is not None:
        measured["seconds"] = (record.ended_at - record.started_at).total_seconds()
    return {**measured, **store.metrics_of(record.run_id)}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _text(answer: Any, *path: str) -> str:
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(answer, str) or not answer:
        raise _unexpected()
    return answer


def _unexpected() -> ProtocolError:
    return ProtocolError("the tracker answers something else than an MLflow server does")
