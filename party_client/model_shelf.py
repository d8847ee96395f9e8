"""Models of finished runs as this party keeps them: HOME/models, sealed, for a limited time.

Each run has two files: RUN.about (what the model is) and RUN.model (its parameters), both sealed
under keys/store.key for this run alone. A model is made of noised, charged updates only, so keeping
it costs no privacy budget; but it is worth something, and with two parties it tells the other's
noised update, so it lies under the same key as the tags. What is older than `models.keep_days`, or
not among the newest `models.keep`, is deleted whenever the shelf is looked at. Of what cannot be
read, the time when it was written counts.

A customer who opts out is not unlearned from a model that is kept, or exported, here.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from models.catalogue import input_width
from models.families import network
from models.plan import Plan
from party_client.durable_file import replace_durably
from party_client.settings import PartySettings
from privacy.errors import NotFound, StoreError
from privacy.hosting.sealing import Column, Sealing
from privacy.identity import RUN_ID_PATTERN, read_secret

LOG = logging.getLogger(__name__)
ABOUT, PARAMETERS = ".about", ".model"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelFacts(BaseModel):
    """What a kept model is. `parties`: whoever contributed. `evaluation`: the opened, noised counts
    of label and score bin. `epsilon` at `delta`: what the run was charged at this party, for one
    customer here. `published_at`: when it was kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    run: Annotated[str, Field(pattern=RUN_ID_PATTERN)]
    party: str
    plan: Plan
    plan_digest: Digest
    model_digest: Digest
    parties: tuple[str, ...]
    epsilon: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    public_size: Annotated[int, Field(ge=1)]
    evaluation: tuple[int, ...]
    code_version: str
    published_at: AwareDatetime


@dataclass(frozen=True)
class KeptModel:
    """A model with its parameters, shape (d,)."""

    facts: ModelFacts
    parameters: NDArray[np.float64]


class ModelShelf:
    """The folder `path`, which need not exist yet. `keep`, `keep_days`: see `ModelSettings`."""

    def __init__(self, path: Path, sealing: Sealing, *, keep: int, keep_days: int) -> None:
        self._path, self._keep, self._days = path, keep, timedelta(days=keep_days)
        self._about: Column = sealing.column("models", "about")
        self._parameters: Column = sealing.column("models", "parameters")

    def put(self, facts: ModelFacts, parameters: NDArray[np.float64]) -> bool:
        """Keep a model, on the disk when this returns, and delete what is due. False if none is to
        be kept. Raises OSError."""
        if not self._keep:
            self.listed()
            return False
        self._path.mkdir(mode=0o700, exist_ok=True)
        row, data = facts.run.encode(), parameters.astype("<f8").tobytes()
        sealed = self._parameters.seal(row, base64.b64encode(data).decode())
        replace_durably(self._path / f"{facts.run}{PARAMETERS}", sealed)
        # Without its defaults: a plan tells what was left out from what was given.
        about = self._about.seal(row, facts.model_dump_json(exclude_unset=True))
        replace_durably(self._path / f"{facts.run}{ABOUT}", about)
        self.listed()
        return True

    def listed(self, now: datetime | None = None) -> tuple[ModelFacts, ...]:
        """What is kept, the newest first; deletes what is due before. Raises StoreError if what is
        left cannot be read."""
        moment = datetime.now(UTC) if now is None else now
        read, faults = self._all(moment)
        found = sorted(read, key=lambda one: (one.published_at, one.run), reverse=True)
        stays = [one for one in found[: self._keep] if moment < one.published_at + self._days]
        for one in found:
            if one not in stays:
                self._delete(one.run)
        if faults:
            raise faults[0]
        return tuple(stays)

    def get(self, run: str) -> KeptModel:
        """The model of a run. Raises NotFound, or StoreError if a file was altered."""
        facts = next((one for one in self.listed() if one.run == run), None)
        if facts is None:
            raise NotFound(
                "no model of this run is kept here; `fedtags-party model list` lists those that are"
            )
        sealed = _read(self._path / f"{run}{PARAMETERS}")
        data = base64.b64decode(self._parameters.open(run.encode(), sealed))
        digest = hashlib.sha256(bytes.fromhex(facts.plan_digest) + data).hexdigest()
        parameters = np.frombuffer(data, dtype="<f8").astype(np.float64)
        plan = facts.plan
        wanted = network(plan.model, input_width(plan)).parameters_count
        if digest != facts.model_digest or parameters.shape != (wanted,):
            raise StoreError(f"the kept model of run {run} is not the one that was published")
        return KeptModel(facts, parameters)

    def _all(self, moment: datetime) -> tuple[list[ModelFacts], list[StoreError]]:
        """What can be read, and why the rest cannot; of that, what is due is deleted."""
        found: list[ModelFacts] = []
        faults: list[StoreError] = []
        runs = {path.stem for end in (ABOUT, PARAMETERS) for path in self._path.glob(f"*{end}")}
        for run in sorted(one for one in runs if re.fullmatch(RUN_ID_PATTERN, one)):
            path = self._path / f"{run}{ABOUT}"
            try:
                found.append(self._facts(run, path))
                continue
            except StoreError as error:
                written = _written(self._path / f"{run}{PARAMETERS}") or _written(path)
                if not self._keep or (written and moment >= written + self._days):
                    self._delete(run)
                elif path.exists():  # else it is being put there, or a crash left half of it
                    faults.append(error)
        return found, faults

    def _facts(self, run: str, path: Path) -> ModelFacts:
        try:
            return ModelFacts.model_validate_json(self._about.open(run.encode(), _read(path)))
        except ValidationError as error:
            raise StoreError(
                f"{path} was written by another version of fedtags; install the newest"
            ) from error

    def _delete(self, run: str) -> None:
        for ending in (PARAMETERS, ABOUT):
            (self._path / f"{run}{ending}").unlink(missing_ok=True)
        LOG.info("the model of run %s is not kept any longer", run)


def open_shelf(settings: PartySettings) -> ModelShelf:
    """The shelf of a party. Raises ConfigError."""
    sealing = Sealing(read_secret(settings.store_key), settings.profile_store.cipher)
    kept = settings.models
    return ModelShelf(settings.kept_models, sealing, keep=kept.keep, keep_days=kept.keep_days)


def _written(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); restore it from backup") from (
            error
        )
