"""Write docs/reference from the code: `python docs/generate_reference.py`.

Commands, messages, settings, exit codes, features and tags are read from the code itself. What a
key means is in reference-texts.toml; a key, command, option or message field that nobody has
described is an error, so it cannot go undocumented. tests/docs compares the result with the files.
"""

from __future__ import annotations

import inspect
import sys
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from reference_tables import Undocumented, bounds, keys_table, same_names, table
from reference_tags import tags_page
from typer.main import get_command

import coordinator.cli
import party_client.cli
import simulations.cli
from coordinator.settings import TEMPLATE, CoordinatorSettings
from models.catalogue import CATALOGUE, EVENTS_1
from models.plan import Plan
from party_client import admission, policy
from party_client.cleaning import REASONS as EVENT_REASONS
from party_client.settings import PartySettings, party_toml
from party_client.tables import TABLE_REASONS
from privacy.disclosure import TOLD
from privacy.errors import FedtagsError
from privacy.hosting.commands import INTERRUPTED
from privacy.messages import COORDINATOR_MESSAGES, PARTY_MESSAGES, REFUSAL, Envelope, Treatment

DOCS = Path(__file__).resolve().parent
MARK = "<!-- Written by docs/generate_reference.py. Do not edit: run it again. -->\n"
PROGRAMS = {
    "fedtags-party": party_client.cli.app,
    "fedtags-coordinator": coordinator.cli.app,
    "fedtags-sim": simulations.cli.app,
}


def generate() -> dict[str, str]:
    """File name in docs/reference -> its text. Raises Undocumented."""
    texts = tomllib.loads((DOCS / "reference-texts.toml").read_text(encoding="utf-8"))
    pages = {
        "commands.md": _commands(),
        "messages.md": _messages(texts["treatments"]),
        "plan.md": _plan(texts["plan"]),
        "party-settings.md": _party(texts),
        "coordinator-settings.md": _coordinator(texts["coordinator"]),
        "exit-codes.md": _exit_codes(),
        "features.md": _features(),
        "tags.md": tags_page(),
    }
    return {name: MARK + text.rstrip() + "\n" for name, text in pages.items()}


# Commands ----------------------------------------------------------------------------------------


def _commands() -> str:
    parts = [
        "# Commands\n",
        "Every command ends with one of the [exit codes](exit-codes.md). Where there is a "
        "`--format`, `json` is for scripts.\n",
    ]
    for program, app in PROGRAMS.items():
        for path, command in _walk(program, get_command(app)):
            parts.append(_command(path, command))
    return "\n".join(parts)


def _walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from _walk(f"{path} {name}", sub)


def _command(path: str, command: click.Command) -> str:
    if not command.help:
        raise Undocumented(f"command {path} has no help text")
    lines = [f"{'##' if ' ' not in path else '###'} `{path}`\n", command.help.strip() + "\n"]
    rows = [_parameter(path, command, one) for one in command.params if one.name != "help"]
    if rows:
        lines.append(table(("", "default", "meaning"), rows))
    return "\n".join(lines)


def _parameter(path: str, command: click.Command, one: click.Parameter) -> tuple[str, ...]:
    described = str(getattr(one, "help", None) or _argument_help(command, one) or "")
    if not described:
        raise Undocumented(f"{one.opts[0]} of {path} has no help text")
    if isinstance(one, click.Argument):
        name = f"`{one.human_readable_name.upper()}`"
    elif getattr(one, "is_flag", False):
        name = f"`{one.opts[0]}`"
    else:
        name = f"`{one.opts[0]} {one.metavar or _metavar(one.type)}`"
    if one.required:
        default = "required"
    elif one.default in (None, False):
        default = ""
    else:
        default = f"`{one.default}`"
    if one.envvar:
        described += f" Also: `{one.envvar}`."
    return name, default, described


def _metavar(kind: click.ParamType) -> str:
    if isinstance(kind, click.Choice):
        return "\\|".join(str(choice) for choice in kind.choices)
    text = kind.name.split()[0].upper()
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    return text + (f" {bounds(low, high)}" if low is not None or high is not None else "")


def _argument_help(command: click.Command, one: click.Parameter) -> str | None:
    """An argument's help, from the function itself: some versions of click lose it."""
    function = inspect.unwrap(command.callback) if command.callback else None
    hint = typing.get_type_hints(function, include_extras=True).get(str(one.name))
    for extra in getattr(hint, "__metadata__", ()):
        text = getattr(extra, "help", None)
        if text:
            return str(text)
    return None


# Messages ----------------------------------------------------------------------------------------


def _messages(texts: Mapping[str, str]) -> str:
    parts = [
        "# Messages\n",
        "All that may cross a party's border, with the treatment of each field. How they follow "
        "each other is in [the protocol](../explanation/protocol.md).\n",
        "A frame is a 64-byte Ed25519 signature followed by canonical CBOR of the envelope. "
        f"Anything that a party does not accept is answered with the constant `{REFUSAL.decode()}`"
        ", unsigned and without a reason.\n",
        "## Treatments\n",
        _described("treatment", [one.value for one in Treatment], texts),
        "\n## In every message (the envelope)\n",
        _message(Envelope),
    ]
    for title, bodies in (
        ("coordinator to party", COORDINATOR_MESSAGES),
        ("party to coordinator", PARTY_MESSAGES),
    ):
        parts.append(f"\n## From {title}\n")
        for body in bodies:
            parts += [f"### `{body.kind}`\n", _message(body)]
    parts.append(
        "\n## Told outside runs\n\nThe JSON body of a signed request, as far as the party's "
        "policy allows ([Choose what to disclose](../how-to/choose-what-to-disclose.md)).\n"
    )
    for part in TOLD:
        parts += [f"### `{part.__name__}`\n", _message(part)]
    return "\n".join(parts)


def _message(body: type[BaseModel]) -> str:
    rows = []
    for name, field in body.model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or not extra.get("note"):
            raise Undocumented(f"message field {body.__name__}.{name} has no treatment or note")
        rows.append((f"`{name}`", f"`{extra['treatment']}`", str(extra["note"])))
    return table(("field", "treatment", "what it is"), rows) if rows else "No fields.\n"


# Settings ----------------------------------------------------------------------------------------


def _plan(texts: Mapping[str, str]) -> str:
    return (
        "# Plan\n\nA plan is a TOML file of at most 64 KiB. Its identity is the SHA-256 of its "
        "bytes. An unknown key is refused. Check one with `fedtags-coordinator plan validate`.\n\n"
        + keys_table(Plan, texts, "plan")
    )


def _party(texts: Mapping[str, Any]) -> str:
    refusals = (*policy.REASONS, admission.BUDGET, admission.MEMBERS, admission.PLAN_INVALID)
    rejected = tuple(dict.fromkeys((*EVENT_REASONS, *TABLE_REASONS)))
    return "\n".join(
        [
            "# Party settings and policy\n",
            "Restart the node after a change (`fedtags-party stop`, then `start`). An unknown key "
            "is refused.\n",
            "## party.toml\n",
            keys_table(PartySettings, texts["party"], "party"),
            "## policy.toml\n",
            "What a list does not name is refused; an empty list allows nothing.\n",
            keys_table(policy.Policy, texts["policy"], "policy"),
            "## Reason codes of a refusal\n",
            _described("code", refusals, texts["reasons"]),
            "## Reasons for which a row is set aside\n",
            "`check` counts them; the rows go to `rejected/rejected.csv` in the home.\n",
            _described("reason", rejected, texts["rejected"]),
            "## party.toml as `init` writes it\n",
            f"```toml\n{party_toml('bank', 6000)}```\n",
            "## policy.toml as `init` writes it\n",
            f"```toml\n{policy.default_policy_text([], 6000)}```\n",
        ]
    )


def _coordinator(texts: Mapping[str, str]) -> str:
    written = TEMPLATE.format(
        federation="fedtags", host="127.0.0.1", control_port=8470, superlink_port=8471
    )
    return "\n".join(
        [
            "# Coordinator settings\n",
            "Restart after a change. An unknown key is refused.\n",
            keys_table(CoordinatorSettings, texts, "coordinator"),
            "## coordinator.toml as `init` writes it\n",
            f"```toml\n{written}```\n",
        ]
    )


# The rest ----------------------------------------------------------------------------------------


def _exit_codes() -> str:
    rows = [
        (0, "", "Success."),
        (2, "", "The command line is wrong."),
        (INTERRUPTED, "", "Ctrl-C."),
    ]
    rows += [(FedtagsError.exit_code, "", "An error without a code of its own.")]
    rows += [
        (one.exit_code, f"`{one.__name__}`", _first_line(one))
        for one in _tree(FedtagsError)
        if one.exit_code != FedtagsError.exit_code
    ]
    return (
        "# Exit codes\n\nThe number is the exit code of every fedtags command that ends with that "
        "error. Codes are stable: none is ever given a new meaning.\n\n"
        + table(("code", "error", "meaning"), [(str(a), b, c) for a, b, c in sorted(rows)])
    )


def _tree(error: type[FedtagsError]) -> Iterator[type[FedtagsError]]:
    yield error
    for below in error.__subclasses__():
        yield from _tree(below)


def _features() -> str:
    rows = [
        (f"`{one.name}`", one.group, one.description, one.unit, f"{one.low:g} to {one.high:g}",
         one.transform, f"{one.low if one.missing is None else one.missing:g}")
        for one in EVENTS_1
    ]  # fmt: skip
    headings = ("column", "group", "what it is", "unit", "public range", "transform", "if missing")
    return (
        f"# Features of the event catalogue `{CATALOGUE}`\n\nA value is clamped to its public "
        "range, transformed, and mapped to 0..1. Days count back from the cut-off. A window of w "
        "days ends on the day before the cut-off. Every range is a public constant, so parties "
        "share no statistic.\n\n" + table(headings, rows)
    )


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


def _described(heading: str, names: Sequence[str], texts: Mapping[str, str]) -> str:
    same_names(heading, names, texts)
    return table((heading, "meaning"), [(f"`{name}`", texts[name]) for name in names])


def main() -> None:
    """Write every page."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    for name, text in generate().items():
        (folder / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(generate())} pages written to {folder}\n")


if __name__ == "__main__":
    main()
