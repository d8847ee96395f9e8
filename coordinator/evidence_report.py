"""The human part of an evidence pack: facts in plain words, as blocks that HTML and PDF render.

The texts are in evidence_texts/, one file a language. Nothing is computed here, and nothing is told
that is not in the machine part.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from privacy.messages import PARTY_MESSAGES, Treatment

LANGUAGES = ("en", "zh")
_LEFT = {"left": "left", "refused": "refused_later", "returned": "returned"}


@dataclass(frozen=True)
class Block:
    """A piece of the report. `rows`: a table's rows or a list's single entries; `widths`: of a
    table's columns, relative."""

    kind: Literal["title", "heading", "text", "list", "table"]
    text: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    widths: tuple[int, ...] = ()


class _Texts:
    """The texts of one language, by section and key."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def top(self, key: str, **values: object) -> str:
        return str(self._data[key]).format(**values)

    def say(self, section: str, key: str, **values: object) -> str:
        return str(self._data[section][key]).format(**values)

    def table(self, section: str, **values: object) -> tuple[tuple[str, ...], ...]:
        rows = self._data[section]["rows"]
        return tuple(tuple(cell.format(**values) for cell in row) for row in rows)

    def entries(self, section: str, key: str) -> tuple[tuple[str, ...], ...]:
        return tuple((one,) for one in self._data[section][key])


@cache
def texts(language: str) -> Mapping[str, Any]:
    """The texts of one of LANGUAGES."""
    path = files("coordinator") / "evidence_texts" / f"{language}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def report(
    facts: Mapping[str, Any], said: Mapping[str, Any], made_at: datetime, language: str
) -> tuple[Block, ...]:
    """The whole report. `facts` and `said`: the data of facts.json and coordinator.json."""
    words = _Texts(texts(language))
    title = Block("title", words.top("title", run=facts["run"]))
    made = words.top("made", made_at=f"{made_at:%Y-%m-%d %H:%M:%S}", federation=facts["federation"])
    return (
        title,
        Block("text", made),
        *_short(words, facts, said),
        *_asked(words, facts, said),
        *_parties(words, facts, said),
        *_privacy(words, facts, said),
        *_result(words, facts),
        *_egress(words, facts),
        *_ledger(words, facts),
        *_protected(words),
        *_proves(words),
        *_checklist(words, facts),
        *_software(words, said),
    )


def _short(words: _Texts, facts: Mapping[str, Any], said: Mapping[str, Any]) -> list[Block]:
    plan, parties = facts["plan"], facts["parties"]
    found = [
        Block("heading", words.say("short", "heading")),
        Block("text", words.say("state", said["state"], message=said["message"] or "")),
        Block(
            "text",
            words.say(
                "short",
                "what",
                requester=said["requester"],
                plan=plan["name"],
                digest=plan["digest"][:16],
                purpose=plan["purpose"],
                description=plan["description"],
            ),
        ),
    ]
    if not parties:
        return [*found, Block("text", words.say("short", "nobody"))]
    accepted, receipts = len(facts["mechanisms"]), sum(one["receipt"] for one in parties)
    told = words.say("short", "who", accepted=accepted, asked=len(parties), receipts=receipts)
    found.append(Block("text", told))
    if accepted:
        most = _number(max(one["epsilon"] for one in facts["mechanisms"].values()))
        found.append(Block("text", words.say("short", "cost", epsilon=most)))
    evaluation = facts["evaluation"]
    if evaluation and evaluation["agreed"] and evaluation["auc"] is not None:
        figures = [_number(evaluation[name]) for name in ("auc", "auc_standard_error")]
        found.append(Block("text", words.say("short", "result", auc=figures[0], error=figures[1])))
    else:
        found.append(Block("text", words.say("short", "no_result")))
    if facts["two_party"]:
        found.append(Block("text", words.say("short", "two_party")))
    return found


def _asked(words: _Texts, facts: Mapping[str, Any], said: Mapping[str, Any]) -> list[Block]:
    plan = facts["plan"]
    task, features, training = plan["task"], plan["features"], plan["training"]
    named = features["columns"] or features["groups"]
    all_of = words.say("asked", "features_all", catalogue=features["catalogue"])
    times = (said["started_at"] or said["created_at"], said["ended_at"])
    values = {
        "plan": plan["name"],
        "digest": plan["digest"],
        "purpose": plan["purpose"],
        "task": words.say(
            "asked",
            "task_value",
            kind=task["kind"],
            horizon=task["horizon_days"],
            eligible=task["eligible_days"],
        ),
        "features": ", ".join(named) or all_of,
        "model": " ".join(map(str, (plan["model"]["family"], *plan["model"]["hidden"]))),
        "rounds": f"{training['rounds']} × {training['local_steps']}",
        "privacy": f"{plan['privacy']['epsilon']}, {plan['privacy']['evaluation_epsilon']}",
        "tags": ", ".join(plan["publication"]["tags"]) or words.top("none"),
        "requester": facts["requester"],
        "minimum": str(plan["cohort"]["minimum"]),
        "started": ", ".join(one or words.top("none") for one in times),
    }
    rows = tuple((words.say("asked", key), value) for key, value in values.items())
    return [
        Block("heading", words.say("asked", "heading")),
        Block("table", rows=rows, widths=(2, 3)),
    ]


def _parties(words: _Texts, facts: Mapping[str, Any], said: Mapping[str, Any]) -> list[Block]:
    def decided(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return words.say("parties", "unsigned")
        if one["accepted"]:
            return words.say("parties", "accepted")
        return words.say("parties", "refused", reason=one["reason"])

    rows = tuple(
        (
            one["name"],
            one["fingerprint"],
            decided(one["decision"]),
            str(one["rounds"]),
            _yes(words, one["evaluated"]),
            _yes(words, one["receipt"]),
        )
        for one in facts["parties"]
    )
    names = ("party", "fingerprint", "decision", "rounds", "evaluated", "receipt")
    found = [
        Block("heading", words.say("parties", "heading")),
        Block("text", words.say("parties", "intro")),
        _table(words, "parties", names, rows, (2, 3, 3, 1, 2, 2)),
    ]
    if facts["cohorts"]:
        sets = tuple(
            (words.say("parties", "cohort", epoch=one["epoch"], parties=", ".join(one["parties"])),)
            for one in facts["cohorts"]
        )
        found += [Block("text", words.say("parties", "cohorts")), Block("list", rows=sets)]
    moved = tuple(
        (words.say("parties", _LEFT[one["event"]], party=one["party"], where=_where(one)),)
        for one in said["membership"]
        if one["event"] in _LEFT
    )
    if moved:
        found += [Block("text", words.say("parties", "membership")), Block("list", rows=moved)]
    return found


def _privacy(words: _Texts, facts: Mapping[str, Any], said: Mapping[str, Any]) -> list[Block]:
    sizes = {one["name"]: one["decision"] for one in facts["parties"]}
    rows = tuple(
        (
            name,
            f"{sizes[name]['public_size']:,}",
            _number(one["delta"]),
            _number(one["sample_rate"]),
            str(one["steps"]),
            _number(one["noise_multiplier"]),
            _number(one["epsilon_training"]),
            _number(one["epsilon"]),
            " … ".join(map(_number, facts["recomputed"][name]["whole"])),
        )
        for name, one in sorted(facts["mechanisms"].items())
    )
    names = ("party", "size", "delta", "rate", "steps", "noise", "training", "whole", "again")
    found = [
        Block("heading", words.say("privacy", "heading")),
        Block("text", words.say("privacy", "unit")),
        Block("text", words.say("privacy", "mechanism")),
    ]
    if not rows:
        return [*found, Block("text", words.say("privacy", "nobody"))]
    found += [
        _table(words, "privacy", names, rows, (3, 2, 3, 2, 2, 2, 2, 2, 4)),
        Block("text", words.say("privacy", "how")),
    ]
    if said["state"] != "finished":
        found.append(Block("text", words.say("privacy", "begun")))
    sums = {key: _number(value) for key, value in facts["everywhere"].items()}
    found += [
        Block("text", words.say("privacy", "crash")),
        Block("text", words.say("privacy", "sum", **sums)),
    ]
    return found


def _result(words: _Texts, facts: Mapping[str, Any]) -> list[Block]:
    found, evaluation = [Block("heading", words.say("result", "heading"))], facts["evaluation"]
    if evaluation is None:
        return [*found, Block("text", words.say("result", "none"))]
    if not evaluation["agreed"]:
        return [*found, Block("text", words.say("result", "disagreed"))]

    def figure(name: str) -> str:
        value = evaluation[name]
        return words.say("result", "drowned") if value is None else _number(value)

    cells = len(evaluation["cells"])
    rows = (
        (words.say("result", "auc"), figure("auc")),
        (words.say("result", "error"), figure("auc_standard_error")),
        (words.say("result", "calibration"), figure("calibration")),
        (words.say("result", "deviation", cells=cells), figure("noise_deviation")),
    )
    told_by = ", ".join(evaluation["told_by"])
    return [
        *found,
        Block("text", words.say("result", "intro", told_by=told_by)),
        Block("table", rows=rows, widths=(3, 2)),
    ]


def _egress(words: _Texts, facts: Mapping[str, Any]) -> list[Block]:
    carried = {kind.kind: _carries(words, kind.model_fields) for kind in PARTY_MESSAGES}
    rows = tuple(
        (
            one["name"],
            sent["type"],
            str(sent["messages"]),
            f"{sent['bytes']:,}",
            carried[sent["type"]],
        )
        for one in facts["parties"]
        for sent in one["sent"]
    )
    names = ("party", "type", "messages", "bytes", "carries")
    return [
        Block("heading", words.say("egress", "heading")),
        Block("text", words.say("egress", "intro")),
        _table(words, "egress", names, rows, (2, 3, 1, 2, 6)),
    ]


def _carries(words: _Texts, fields: Mapping[str, Any]) -> str:
    """The fields of a message by treatment, such as 'disclosed: accepted, reason'."""
    by_treatment: dict[str, list[str]] = {}
    for name, field in fields.items():
        extra = field.json_schema_extra
        by_treatment.setdefault(str(extra["treatment"]), []).append(name)
    ordered = [one.value for one in Treatment if one.value in by_treatment]
    return "; ".join(
        f"{words.say('treatment', one)}: {', '.join(by_treatment[one])}" for one in ordered
    )


def _ledger(words: _Texts, facts: Mapping[str, Any]) -> list[Block]:
    kept = [one for one in facts["parties"] if one["ledger"]]
    rows = tuple(
        (
            one["name"],
            str(one["ledger"]["first"]["position"]),
            str(one["ledger"]["last"]["position"]),
            str(one["ledger"]["shown"]),
            one["ledger"]["last"]["hash"],
        )
        for one in kept
    )
    grew = _yes(words, all(one["ledger"]["grew"] for one in kept))
    names = ("party", "first", "last", "shown", "hash")
    found = [
        Block("heading", words.say("ledger", "heading")),
        Block("text", words.say("ledger", "intro", grew=grew)),
        _table(words, "ledger", names, rows, (2, 1, 1, 1, 6)),
    ]
    if facts["earlier_runs"]:
        entries = tuple(
            (
                words.say(
                    "ledger",
                    "earlier_one",
                    run=one["run"],
                    party=one["party"],
                    position=one["position"],
                    shown_by=", ".join(one["shown_by"]),
                ),
            )
            for one in facts["earlier_runs"]
        )
        found += [Block("text", words.say("ledger", "earlier")), Block("list", rows=entries)]
    return found


def _protected(words: _Texts) -> list[Block]:
    names = ("who", "learns", "stops")
    return [
        Block("heading", words.say("protected", "heading")),
        _table(words, "protected", names, words.table("protected"), (2, 3, 3)),
        Block("heading", words.say("uncovered", "heading")),
        Block("list", rows=words.entries("uncovered", "rows")),
    ]


def _proves(words: _Texts) -> list[Block]:
    return [
        Block("heading", words.say("proves", "heading")),
        Block("text", words.say("proves", "yes")),
        Block("list", rows=words.entries("proves", "does")),
        Block("text", words.say("proves", "no")),
        Block("list", rows=words.entries("proves", "does_not")),
        Block("text", words.say("proves", "verify")),
    ]


def _checklist(words: _Texts, facts: Mapping[str, Any]) -> list[Block]:
    costs = [one["epsilon"] for one in facts["mechanisms"].values()]
    values = {
        "purpose": facts["plan"]["purpose"],
        "least": _number(min(costs, default=0.0)),
        "most": _number(max(costs, default=0.0)),
    }
    header = ("question", "answer")
    found = [
        Block("heading", words.say("checklist", "heading")),
        Block("text", words.say("checklist", "intro")),
    ]
    for section in ("nist", "gdpr", "pipl"):
        found.append(Block("heading", words.say(section, "heading")))
        found.append(_table(words, "checklist", header, words.table(section, **values), (2, 3)))
    return found


def _software(words: _Texts, said: Mapping[str, Any]) -> list[Block]:
    audit = said["audit"]
    return [
        Block("heading", words.say("software", "heading")),
        Block("text", words.say("software", "versions", **said["software"])),
        Block("text", words.say("software", audit["result"], **audit)),
    ]


def _table(
    words: _Texts,
    section: str,
    names: Sequence[str],
    rows: tuple[tuple[str, ...], ...],
    widths: tuple[int, ...],
) -> Block:
    return Block("table", "", tuple(words.say(section, name) for name in names), rows, widths)


def _yes(words: _Texts, value: bool) -> str:
    return words.top("yes" if value else "no")


def _where(one: Mapping[str, Any]) -> str:
    return f"{one['phase']} {one['round']}" if one["round"] is not None else str(one["phase"])


def _number(value: float) -> str:
    return f"{value:.4g}"
