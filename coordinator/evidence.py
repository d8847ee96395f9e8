"""Making evidence packs: one signed archive for each run that has ended (`privacy.evidence`)."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import RowMapping, select

from coordinator import evidence_keys
from coordinator.evidence_store import (
    PackRecord,
    find_pack,
    lines_of,
    list_packs,
    save_pack,
    without_pack,
)
from coordinator.run_store import MIGRATIONS, RunStore
from coordinator.settings import CoordinatorSettings
from coordinator.tables import exchange_bytes, exchanges, parties, requesters, run_members, runs
from models.plan import parse_plan
from privacy.errors import FedtagsError, RateLimited, RunError, StoreError
from privacy.evidence import (
    COORDINATOR,
    FACTS,
    PLAN,
    REPORTS,
    REQUEST,
    SBOM,
    STATEMENTS,
    KeyFile,
    canonical_json,
    seal_pack,
)
from privacy.evidence_statements import write_lines
from privacy.hosting.access_log import verify_log
from privacy.hosting.bundle import bundle_hash
from privacy.hosting.database import open_engine, reading, store_errors, utc_now
from privacy.hosting.migrations import upgrade_engine
from privacy.identity import SigningKey

if TYPE_CHECKING:
    from coordinator.evidence_verify import Verified

# Of those who wait for a pack to be made, each of whom holds a thread of the service.
MOST_WAITING = 4

__all__ = ["Evidence", "KeyFile", "PackRecord"]


class Evidence:
    """The evidence of one coordinator's home: its packs in HOME/evidence, and its public keys."""

    def __init__(
        self, settings: CoordinatorSettings, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._settings, self._clock = settings, clock
        self._sound: dict[str, tuple[str, int, int]] = {}
        self._making = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._engine = open_engine(settings.database_url)
        upgrade_engine(self._engine, MIGRATIONS)
        self._runs = RunStore(settings.database_url)

    def close(self) -> None:
        """Give back the connections."""
        self._runs.close()
        self._engine.dispose()

    def view(self, run_id: str) -> PackRecord | None:
        """The pack of a run, if one was made. Raises StoreError for an unknown run."""
        self._runs.get(run_id)
        return find_pack(self._engine, run_id)

    def list(self) -> Sequence[PackRecord]:
        """The newest 500 packs, newest first."""
        return list_packs(self._engine)

    def missing(self) -> Sequence[str]:
        """Runs that have ended and have no pack yet, oldest first."""
        return without_pack(self._engine)

    def export(self, run_id: str) -> PackRecord:
        """The run's pack, made now unless there is one; one at a time.

        Raises StoreError for an unknown run, RunError while it is active, ConfigError if the
        evidence key cannot be used, EvidenceError if what is stored does not verify, RateLimited
        if too many wait for theirs.
        """
        known = self._made(run_id)
        if known is not None:
            return known
        if not self._places.acquire(blocking=False):
            raise RateLimited("other evidence packs are being made; try again in a minute")
        try:
            with self._making:
                return self._made(run_id) or self._export(run_id)
        finally:
            self._places.release()

    def _made(self, run_id: str) -> PackRecord | None:
        known = self.view(run_id)
        return known if known is not None and self._path(run_id).exists() else None

    def _export(self, run_id: str) -> PackRecord:
        run = self._row(run_id)
        if run["active_slot"] is not None:
            raise RunError(f"run {run_id} has not ended; its evidence is made when it has")
        made_at = self._clock().replace(microsecond=0)
        data = self._make(run, made_at)
        self.verify(data)
        record = PackRecord(run_id, made_at, hashlib.sha256(data).hexdigest(), len(data))
        _write(self._path(run_id), data)
        save_pack(self._engine, record)
        return record

    def read(self, run_id: str) -> bytes:
        """The pack's bytes, as they were made. Raises StoreError if there is none, or another."""
        record = self.view(run_id)
        if record is None:
            raise StoreError(f"there is no evidence pack of run {run_id}; export it first")
        try:
            data = self._path(run_id).read_bytes()
        except OSError as error:
            raise StoreError(
                f"the evidence pack of run {run_id} cannot be read ({error.strerror}); export it "
                "again"
            ) from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise StoreError(
                f"the evidence pack of run {run_id} is not the one that was made; compare it with "
                "a copy kept elsewhere, then remove it and export again"
            )
        return data

    def verify(self, data: bytes) -> Verified:
        """Verify a pack with this federation's own keys. Raises EvidenceError naming the part."""
        from coordinator.evidence_verify import verify

        return verify(data, self.keys())

    def faults(self) -> Mapping[str, str]:
        """By run, what is wrong with a pack's file: it is gone, or not the one that was made.

        A file whose length and time are as when it was last looked at is not read again.
        """
        found = {}
        for record in self.list():
            path = self._path(record.run_id)
            try:
                status = path.stat()
                seen = (status.st_size, status.st_mtime_ns)
                if self._sound.get(record.run_id) != (record.sha256, *seen):
                    self.read(record.run_id)
                    self._sound[record.run_id] = (record.sha256, *seen)
            except OSError as error:
                found[record.run_id] = f"its file cannot be read ({error.strerror})"
            except StoreError as error:
                found[record.run_id] = str(error)
        return found

    def keys(self) -> KeyFile:
        """The public keys that a verifier must have got from someone it trusts.

        Parties that were removed since are in it: packs of their runs stay verifiable.
        """
        with store_errors(), reading(self._engine) as connection:
            now = connection.execute(select(parties.c.name, parties.c.public_key)).all()
            then = connection.execute(
                select(run_members.c.party, run_members.c.public_key).distinct()
            ).all()
            asking = connection.execute(select(requesters.c.name, requesters.c.public_key)).all()
        _, certificate = evidence_keys.load(self._settings)
        return KeyFile(
            self._settings.federation,
            SigningKey.load(self._settings.coordinator_key).public,
            tuple(sorted({(name, bytes(key)) for name, key in (*now, *then)})),
            tuple(sorted((name, bytes(key)) for name, key in asking)),
            (certificate.public,),
        )

    def _path(self, run_id: str) -> Path:
        return self._settings.home / "evidence" / f"{run_id}.evidence.zip"

    def _row(self, run_id: str) -> RowMapping:
        with store_errors(), reading(self._engine) as connection:
            query = select(runs).where(runs.c.run_id == run_id)
            return connection.execute(query).mappings().one()

    def _make(self, run: RowMapping, made_at: datetime) -> bytes:
        # Accountants and reports are read in when a pack is made, not by every service.
        from coordinator.evidence_facts import charged, everywhere, recomputed, signed_facts
        from coordinator.evidence_render import as_html, as_pdf
        from coordinator.evidence_report import LANGUAGES, report
        from coordinator.evidence_sbom import bill_of_materials
        from privacy.evidence_chain import Context, verify_lines

        run_id, source = run["run_id"], run["plan_source"]
        plan, federation = parse_plan(source), self._settings.federation
        members = self._asked(run_id, plan.cohort.parties)
        context = Context(federation, run_id, hashlib.sha256(source).digest(), members)
        lines = lines_of(self._engine, run_id)
        signed = verify_lines(lines, context)
        facts = signed_facts(plan, source, run["requester_public"], context, signed)
        facts["mechanisms"] = charged(plan, facts)
        facts["recomputed"] = recomputed(facts["mechanisms"])
        facts["everywhere"] = everywhere(facts["mechanisms"])
        said = self._said(run)
        request = {
            "members": {name: key.hex() for name, key in members.items()},
            "requester": run["requester_public"].hex(),
            "run": run_id,
            "signature": run["requester_signature"].hex(),
        }
        parts = {
            PLAN: source,
            REQUEST: canonical_json(request),
            STATEMENTS: write_lines(lines),
            FACTS: canonical_json(facts),
            COORDINATOR: canonical_json(said),
            SBOM: bill_of_materials(federation, run_id, made_at),
        }
        blocks = {language: report(facts, said, made_at, language) for language in LANGUAGES}
        rendered = [as_html(blocks[one], one) for one in LANGUAGES]
        rendered += [as_pdf(blocks[one], one, made_at) for one in LANGUAGES]
        signer, certificate = evidence_keys.load(self._settings)
        parts |= dict(zip(REPORTS, rendered, strict=True))
        return seal_pack(parts, signer, certificate, run_id, made_at)

    def _asked(self, run_id: str, named: Sequence[str]) -> dict[str, bytes]:
        """The parties that the run was proposed to, with the keys that they had then."""
        members = self._runs.members_of(run_id)
        return {name: bytes(members[name]) for name in sorted(named or members) if name in members}

    def _said(self, run: RowMapping) -> dict[str, Any]:
        run_id = run["run_id"]
        with store_errors(), reading(self._engine) as connection:
            query = select(requesters.c.name).where(
                requesters.c.public_key == run["requester_public"]
            )
            requester = connection.execute(query).scalar_one_or_none()
        return {
            "audit": _audit(self._settings.home / "audit.jsonl"),
            "created_at": _time(run["created_at"]),
            "ended_at": _time(run["ended_at"]),
            "error": run["error"],
            "exit_code": run["exit_code"],
            "membership": [
                {
                    "party": one.party,
                    "event": one.event,
                    "phase": one.phase,
                    "round": one.round,
                    "at": _time(one.at),
                }
                for one in self._runs.membership_of(run_id)
            ],
            "message": run["message"],
            "received": self._received(run_id),
            "requester": requester or "?",
            "software": _software(),
            "started_at": _time(run["started_at"]),
            "state": run["state"],
        }

    def _received(self, run_id: str) -> Mapping[str, Any]:
        """Bytes that went to and came from each party, by phase; refusals and what was lost too."""
        query = select(
            exchanges.c.phase,
            exchange_bytes.c.party,
            exchange_bytes.c.bytes_up,
            exchange_bytes.c.bytes_down,
        ).join(exchanges, exchanges.c.id == exchange_bytes.c.exchange_id)
        found: dict[str, dict[str, dict[str, int]]] = {}
        with store_errors(), reading(self._engine) as connection:
            for row in connection.execute(query.where(exchanges.c.run_id == run_id)):
                party = found.setdefault(row.party, {})
                phase = party.setdefault(row.phase, {"from_party": 0, "to_party": 0})
                phase["from_party"] += row.bytes_up
                phase["to_party"] += row.bytes_down
        return found


def _audit(path: Path) -> dict[str, Any]:
    """What verifying the audit log gives; `result` is also the name of its sentence."""
    if not path.exists():
        return {"result": "audit_none"}
    try:
        entries, head = verify_log(path)
    except FedtagsError as error:
        return {"result": "audit_broken", "problem": str(error)}
    return {"result": "audit", "entries": entries, "head": head.hash, "sequence": head.sequence}


def _software() -> dict[str, Any]:
    from coordinator.evidence_sbom import ROOT, software

    found = software()
    return {
        "version": found[ROOT],
        "python": platform.python_version(),
        "count": len(found),
        "bundle": bundle_hash(),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _write(path: Path, data: bytes) -> None:
    """The whole file or none, mode 0600."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise StoreError(
            f"the evidence pack cannot be written to {path.parent} ({error.strerror}); check "
            "permissions and free disk space"
        ) from error
