"""What parties tell about themselves: taking it in, and reading it for the API and the pages.

What a party tells (`privacy.disclosure`) is its own statement, not a fact that anybody has checked:
a page says "as disclosed". Three things are checked. It is signed by the party whose name it has;
it is newer than all that this party told before, so a repeated one is refused; and the place of its
ledger does not contradict an earlier one. A contradiction is stored with both signed requests.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from coordinator.disclosure_tables import contradictions, disclosed_budgets, disclosures
from coordinator.disclosure_views import (
    BudgetPoint,
    Contradiction,
    ModelHolders,
    PartyDisclosure,
    PlanApprovals,
    approvals,
    doubts,
    models,
    tag_states,
)
from coordinator.run_store import MIGRATIONS
from privacy.disclosure import Disclosure, StatusTold, read_disclosure
from privacy.errors import ProtocolError, SignatureError
from privacy.hosting.database import open_engine, reading, store_errors, utc_now
from privacy.hosting.migrations import upgrade_engine
from privacy.hosting.signed_requests import (
    MAX_AGE_SECONDS,
    PARTY_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    verify_request,
)

__all__ = [
    "BudgetPoint",
    "Contradiction",
    "DisclosureStore",
    "ModelHolders",
    "PartyDisclosure",
    "PlanApprovals",
    "approvals",
    "doubts",
    "models",
    "receive",
    "tag_states",
]

LEDGER_BACK: Final = "ledger-back"  # the ledger is shorter than the party told before
LEDGER_FORK: Final = "ledger-fork"  # another entry at the same place
# Of one party; older budgets make room, further contradictions are only in the log.
MAX_BUDGETS: Final = 2000
MAX_CONTRADICTIONS: Final = 100

logger = logging.getLogger(__name__)


class DisclosureStore:
    """The part of the coordinator's database that parties fill by what they tell.

    Safe between threads and processes. Every method raises StoreError when the database cannot be
    read or written.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        upgrade_engine(self._engine, MIGRATIONS)
        self._parsed: dict[str, PartyDisclosure] = {}

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def newest(self) -> Mapping[str, PartyDisclosure]:
        """The newest that each party told, by name. Parties that never told anything are not in
        it; those that have left the federation are."""
        known, table = self._parsed, disclosures.c
        with store_errors(), reading(self._engine) as connection:
            found = connection.execute(
                select(table.party, table.sequence).order_by(table.party)
            ).all()
            stale = [one.party for one in found if not _same(known.get(one.party), one.sequence)]
            query = select(disclosures).where(table.party.in_(stale))
            fresh = {row.party: _told(row) for row in connection.execute(query)} if stale else {}
        now = {one.party: fresh.get(one.party) or known[one.party] for one in found}
        self._parsed = now
        return now

    def of(self, party: str) -> PartyDisclosure | None:
        """The newest that one party told, None if it never told anything."""
        with store_errors(), reading(self._engine) as connection:
            row = connection.execute(
                select(disclosures).where(disclosures.c.party == party)
            ).one_or_none()
        return None if row is None else _told(row)

    def budget_over_time(self, party: str) -> tuple[BudgetPoint, ...]:
        """The party's lifetime budget at each change of its spend, oldest first."""
        table = disclosed_budgets.c
        columns = (table.at, table.epsilon, table.delta, table.spent, table.used)
        query = select(*columns).where(table.party == party).order_by(table.id)
        with store_errors(), reading(self._engine) as connection:
            return tuple(BudgetPoint(*row) for row in connection.execute(query))

    def contradictions(
        self, party: str | None = None, *, proofs: bool = True
    ) -> tuple[Contradiction, ...]:
        """All contradictions, or one party's, the newest first; without `proofs`, `earlier` and
        `later` are "", which spares reading as much as a party chose to send."""
        kept = contradictions.c
        columns = [one for one in kept if proofs or one.name not in ("earlier", "later")]
        query = select(*columns).order_by(kept.id.desc())
        if party is not None:
            query = query.where(kept.party == party)
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query).all()
            names = {row.party for row in rows}
            furthest = select(disclosures).where(disclosures.c.party.in_(names))
            stands = {row.party: _contradicted(row) for row in connection.execute(furthest)}
        return tuple(
            Contradiction(
                party=row.party,
                kind=row.kind,
                at=row.at,
                what=row.what,
                stands=stands.get(row.party, False),
                earlier=row.earlier if proofs else "",
                later=row.later if proofs else "",
            )
            for row in rows
        )

    def keep(self, told: Disclosure, body: bytes, *, signed_at: int, signature: bytes) -> None:
        """Store a verified disclosure as the party's newest, and whatever it contradicts.

        Raises ProtocolError, changing nothing, unless it is newer than what is stored.
        """
        try:
            self._keep(told, body, signed_at, signature)
        except _Raced:  # the party's first two at the same moment: now there is a row to compare
            self._keep(told, body, signed_at, signature)

    def _keep(self, told: Disclosure, body: bytes, signed_at: int, signature: bytes) -> None:
        now, party = utc_now(), told.party
        request = _request_text(body, signed_at, signature)
        values = {
            "sequence": told.sequence,
            "received_at": now,
            "body": body,
            "signed_at": signed_at,
            "signature": signature,
        }
        with store_errors(), self._engine.begin() as connection:
            known = connection.execute(
                select(disclosures).where(disclosures.c.party == party).with_for_update()
            ).one_or_none()
            if known is not None and told.sequence <= known.sequence:
                raise ProtocolError(
                    "the disclosure is not newer than the last one of this party: it was sent "
                    "before, or the party's clock went back"
                )
            contradiction = None if known is None else _contradiction(known, told.status)
            if told.status is not None and contradiction is None:
                values["ledger_position"] = told.status.ledger_position
                values["ledger_hash"] = told.status.ledger_hash
                values["ledger_request"] = request
            if known is None:
                try:
                    connection.execute(insert(disclosures).values(party=party, **values))
                except IntegrityError as error:
                    raise _Raced from error
            else:
                connection.execute(
                    update(disclosures).where(disclosures.c.party == party).values(**values)
                )
                if contradiction is not None:
                    _note(connection, known, contradiction, request, now)
            _note_budget(connection, told, now)


class _Raced(Exception):
    """Another transaction stored the party's first disclosure meanwhile."""


def receive(
    store: DisclosureStore,
    *,
    federation: str,
    key_of: Callable[[str], bytes | None],
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
) -> Disclosure:
    """Take in one signed request to `privacy.disclosure.PATH`; returns what it tells.

    `path`: with its query, as it was requested. `headers`: looked up by lower-case names. `key_of`:
    an enrolled party's public key (32 bytes) by its name, None if there is no such party now.

    Raises SignatureError (no enrolled party signed it within the last two minutes), ProtocolError
    (not a disclosure, above 64 KiB, of another party or federation, or not newer than the last) or
    StoreError. Nothing is changed then.
    """
    name = headers.get(PARTY_HEADER, "")
    key = key_of(name)
    if key is None:
        raise SignatureError("the request is not from an enrolled party; join first")
    verify_request(key, method, path, headers, body)
    told = read_disclosure(body)
    if told.party != name:
        raise ProtocolError("the disclosure is of another party than the one that signed it")
    if told.federation != federation:
        raise ProtocolError("the disclosure is for another federation")
    signed_at = int(headers[TIME_HEADER])
    if abs(told.sequence - 1000 * signed_at) > 1000 * MAX_AGE_SECONDS:
        raise ProtocolError("the disclosure's sequence is not the time when it was sent")
    store.keep(told, body, signed_at=signed_at, signature=bytes.fromhex(headers[SIGNATURE_HEADER]))
    return told


def _same(known: PartyDisclosure | None, sequence: int) -> bool:
    return known is not None and known.disclosure.sequence == sequence


def _told(row: Row[Any]) -> PartyDisclosure:
    return PartyDisclosure(row.party, row.received_at, read_disclosure(row.body))


def _request_text(body: bytes, signed_at: int, signature: bytes) -> str:
    return json.dumps({"body": body.decode(), "signed_at": signed_at, "signature": signature.hex()})


def _contradiction(known: Row[Any], status: StatusTold | None) -> tuple[str, str] | None:
    """How `status` contradicts the furthest place of the ledger told before: its kind and words."""
    if status is None or known.ledger_position is None:
        return None
    position, before = status.ledger_position, known.ledger_position
    if position < before:
        return LEDGER_BACK, (
            f"{known.party} told that its ledger ends at entry {position}, and before at entry "
            f"{before}: the ledger was cut or put back from a copy, or one of the two is untrue"
        )
    if position == before and status.ledger_hash != known.ledger_hash:
        return LEDGER_FORK, (
            f"{known.party} told two different entries {position} of its ledger: it was rewritten, "
            "or one of the two is untrue"
        )
    return None


def _contradicted(known: Row[Any]) -> bool:
    return _contradiction(known, read_disclosure(known.body).status) is not None


def _note(
    connection: Connection,
    known: Row[Any],
    contradiction: tuple[str, str],
    later: str,
    now: datetime,
) -> None:
    kind, what = contradiction
    table, digest = contradictions.c, hashlib.sha256(known.ledger_request.encode()).hexdigest()
    of_party = select(func.count()).select_from(contradictions).where(table.party == known.party)
    if connection.execute(
        of_party.where(table.kind == kind, table.earlier_hash == digest)
    ).scalar():
        return  # told already, about the same earlier statement
    logger.warning("%s", what)
    if (connection.execute(of_party).scalar() or 0) >= MAX_CONTRADICTIONS:
        return
    connection.execute(
        insert(contradictions).values(
            party=known.party,
            kind=kind,
            at=now,
            what=what,
            earlier_hash=digest,
            earlier=known.ledger_request,
            later=later,
        )
    )


def _note_budget(connection: Connection, told: Disclosure, now: datetime) -> None:
    budget, table = told.budget, disclosed_budgets.c
    if budget is None:
        return
    newest = connection.execute(
        select(disclosed_budgets)
        .where(table.party == told.party)
        .order_by(table.id.desc())
        .limit(1)
    ).one_or_none()
    values = {name: getattr(budget, name) for name in ("epsilon", "delta", "spent", "used")}
    if newest is not None and values == {name: getattr(newest, name) for name in values}:
        return
    connection.execute(insert(disclosed_budgets).values(party=told.party, at=now, **values))
    overflow = (
        select(table.id)
        .where(table.party == told.party)
        .order_by(table.id.desc())
        .offset(MAX_BUDGETS)
        .limit(1)
    )
    oldest = connection.execute(overflow).scalar()
    if oldest is not None:
        connection.execute(
            delete(disclosed_budgets).where(table.party == told.party, table.id <= oldest)
        )
