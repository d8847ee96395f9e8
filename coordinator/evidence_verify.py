"""Verify an evidence pack with public keys alone: no service, no database, no network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.evidence_facts import check_charged, check_same, signed_facts
from models.plan import parse_plan
from privacy.errors import EvidenceError, FedtagsError
from privacy.evidence import (
    COORDINATOR,
    FACTS,
    PLAN,
    REQUEST,
    STATEMENTS,
    KeyFile,
    hex_of,
    named_failure,
    open_pack,
    read_canonical,
)
from privacy.evidence_chain import Context, verify_lines
from privacy.evidence_statements import read_lines
from privacy.identity import PARTY_PATTERN, fingerprint, verify_plan

ADDED = {"mechanisms", "recomputed", "everywhere"}


@dataclass(frozen=True)
class Verified:
    """What a verified pack proves, in short. `statements`: how many signatures of parties hold;
    `epsilon`: by party, as recomputed (lower and upper bound); `heads`: each party's newest ledger
    position and hash in the run; `facts` and `said` are the pack's facts.json and
    coordinator.json, of which the second is one party's word."""

    federation: str
    run: str
    made_at: str
    evidence_key: str
    plan: str
    requester: str
    state: str
    statements: int
    epsilon: Mapping[str, tuple[float, float]]
    heads: Mapping[str, tuple[int, str]]
    facts: Mapping[str, Any]
    said: Mapping[str, Any]

    def as_data(self) -> dict[str, Any]:
        """Plain data, without the pack's own parts."""
        data = asdict(self)
        del data["facts"], data["said"]
        return data


def verify(data: bytes, keys: KeyFile) -> Verified:
    """Verify every signature and hash, and compute again what follows from them.

    Raises EvidenceError naming the part that failed first.
    """
    pack = open_pack(data, keys)
    source = pack.parts[PLAN]
    try:
        plan = parse_plan(source)
    except FedtagsError as error:
        raise named_failure(PLAN, error) from error
    requester, context = _request(pack.parts[REQUEST], source, pack.run, keys)
    signed = verify_lines(read_lines(pack.parts[STATEMENTS]), context)
    told = _facts(pack.parts[FACTS])
    try:
        own = signed_facts(plan, source, requester, context, signed)
        check_same({name: told[name] for name in told if name not in ADDED}, own)
        check_charged(plan, told)
    except EvidenceError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, FedtagsError) as error:
        raise EvidenceError(FACTS, "it does not have the fields of its format") from error
    said = _said(pack.parts[COORDINATOR], told)
    ledgers = {one["name"]: one["ledger"] for one in told["parties"] if one["ledger"]}
    return Verified(
        pack.federation,
        pack.run,
        pack.made_at,
        fingerprint(pack.evidence_key),
        told["plan"]["digest"],
        next(name for name, key in keys.requesters if key == requester),
        said["state"],
        sum(one.received is not None for one in signed),
        {name: (one["whole"][0], one["whole"][1]) for name, one in told["recomputed"].items()},
        {name: (one["last"]["position"], one["last"]["hash"]) for name, one in ledgers.items()},
        told,
        said,
    )


def _request(data: bytes, source: bytes, run: str, keys: KeyFile) -> tuple[bytes, Context]:
    fields = read_canonical(REQUEST, data, {"members", "requester", "run", "signature"})
    requester = hex_of(REQUEST, fields, "requester", 32)
    if requester not in {key for _, key in keys.requesters}:
        raise EvidenceError(REQUEST, "the key file does not have this requester's key")
    if fields["run"] != run:
        raise EvidenceError(REQUEST, "it asks for another run")
    try:
        verify_plan(requester, hex_of(REQUEST, fields, "signature", 64), run, source)
    except EvidenceError:
        raise
    except FedtagsError as error:
        raise EvidenceError(REQUEST, "the requester did not sign this run of this plan") from error
    members = fields["members"]
    if not isinstance(members, dict) or not all(
        re.fullmatch(PARTY_PATTERN, name) for name in members
    ):
        raise EvidenceError(REQUEST, "members are not parties' names with their keys")
    public = {name: hex_of(REQUEST, members, name, 32) for name in members}
    for name, key in public.items():
        keys.check_party(name, key)
    return requester, Context(keys.federation, run, hashlib.sha256(source).digest(), public)


def _facts(data: bytes) -> dict[str, Any]:
    try:
        names = set(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise EvidenceError(FACTS, "it cannot be read") from error
    told = read_canonical(FACTS, data, names)
    if not names >= ADDED:
        raise EvidenceError(FACTS, "it does not have the fields of its format")
    return told


def _said(data: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the coordinator says, held to what the parties signed where both speak of it."""
    try:
        names = set(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise EvidenceError(COORDINATOR, "it cannot be read") from error
    said = read_canonical(COORDINATOR, data, names)
    state = said.get("state")
    if state not in ("finished", "failed", "stopped"):
        raise EvidenceError(COORDINATOR, "it tells no end of the run")
    evaluation = facts["evaluation"]
    forked = [
        one["name"] for one in facts["parties"] if one["ledger"] and not one["ledger"]["grew"]
    ]
    if state == "finished" and facts["parties"]:
        if evaluation is None or not evaluation["agreed"]:
            raise EvidenceError(COORDINATOR, "finished, it says, but the receipts do not show it")
        if forked:
            raise EvidenceError(
                STATEMENTS, f"the ledger of {', '.join(forked)} went back within a finished run"
            )
    return said
