"""A whole ledger as one JSON document, from which a reviewer can recompute everything.

Entries stand as they are in the file, so their hashes can be checked; the charged mechanisms stand
beside the accountant's name, version and settings, so every epsilon can be composed again by
anybody who has dp_accounting. There is no customer's data in a ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from importlib.metadata import version
from typing import Any

from party_client.ledger_words import decision_words, plain, run_lines
from privacy import accounting
from privacy.hash_chain import Entry
from privacy.ledger import ADJACENCY, UNIT_OF_PRIVACY
from privacy.ledger_state import LedgerState
from privacy.mechanism import Mechanism

EXPORT_FORMAT = 1


def ledger_document(entries: Sequence[Entry], state: LedgerState) -> dict[str, Any]:
    """The document. `state` is what `entries` add up to, as of the moment that it names."""
    charged = state.charged()
    return {
        "format": EXPORT_FORMAT,
        "party": state.party,
        "as_of": state.now.astimezone(UTC).isoformat(),
        "unit_of_privacy": UNIT_OF_PRIVACY,
        "adjacency": ADJACENCY,
        "delta": state.cap_delta,
        "head": {"position": state.position, "hash": entries[-1].hash},
        "hash_rule": (
            "SHA-256 of the ASCII text 'fedtags ledger 1', a zero byte, and the entry without its "
            "field 'hash' as JSON with sorted keys and no blanks"
        ),
        "accountant": {
            "name": "dp_accounting.pld.PLDAccountant",
            "version": version("dp-accounting"),
            "neighboring_relation": "ADD_OR_REMOVE_ONE",
            "value_discretization_interval": accounting.GRID,
            "rdp_orders": list(accounting.ORDERS),
        },
        "lifetime_budget": {
            "epsilon": state.cap_epsilon,
            "delta": state.cap_delta,
            "filter": "Rényi divergence at one order, fixed with the budget; runs stop at share 1",
            "order": state.cap.order,
            "allowance": state.cap.allowance,
            "charged": accounting.rdp(charged)[accounting.ORDERS.index(state.cap.order)],
            "share_used": state.cap.used(charged),
        },
        "epsilon_spent": accounting.epsilon(charged, state.cap_delta),
        "epsilon_spent_by": "RDP, because of a gap" if state.gaps else "PLD",
        "runs": [
            plain(line) | {"charged": _mechanisms(state.runs[line.run].charged(state.now))}
            for line in run_lines(state)
        ],
        "gaps": _mechanisms([gap.spend for gap in state.gaps]),
        "decisions": [
            {
                "approved": one.approved,
                "plan_digest": one.plan_digest,
                "in_words": decision_words(one),
                "runs_since": state.runs_after(one) if one.approved else 0,
            }
            for one in state.decisions
        ],
        "decision_rule": (
            "field 'signature' of an entry of kind 'approve' or 'refuse': Ed25519 by the party's "
            "identity key over the ASCII text 'fedtags plan decision 1', a zero byte, and the list "
            "of the kind and the body without its signature as canonical CBOR (RFC 8949)"
        ),
        "entries": _entries(entries),
    }


def _mechanisms(mechanisms: Sequence[Mechanism]) -> list[dict[str, Any]]:
    return [one.as_data() for one in mechanisms]


def _entries(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Each entry with the fields that its line in the file has."""
    previous = ["0" * 64, *(one.hash for one in entries)]
    return [
        {
            "sequence": one.sequence,
            "time": one.time.astimezone(UTC).isoformat(timespec="microseconds"),
            "kind": one.kind,
            "body": dict(one.body),
            "previous": before,
            "hash": one.hash,
        }
        for one, before in zip(entries, previous, strict=False)
    ]
