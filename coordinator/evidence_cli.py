"""`fedtags-coordinator evidence`: take packs away, verify them anywhere, tell the public keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from coordinator.settings import load_settings
from privacy.errors import ConfigError
from privacy.hosting.commands import Format, say, write_json

if TYPE_CHECKING:
    from coordinator.evidence import Evidence

evidence_app = typer.Typer(
    help="Evidence packs: export, list and verify them; the keys to verify with.",
    no_args_is_help=True,
)
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


@contextmanager
def _evidence(context: typer.Context) -> Iterator[Evidence]:
    from coordinator.evidence import Evidence

    home = context.obj
    assert isinstance(home, Path)
    opened = Evidence(load_settings(home))
    try:
        yield opened
    finally:
        opened.close()


@evidence_app.command("export")
def evidence_export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write it (default: RUN.evidence.zip).")
    ] = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Write the signed evidence pack of a run that has ended; it is made once."""
    path = output or Path(f"{run}.evidence.zip")
    with _evidence(context) as evidence:
        record = evidence.export(run)
        data = evidence.read(run)
    _create(path, data)
    if format_ is Format.JSON:
        write_json({**dataclasses.asdict(record), "made_at": record.made_at.isoformat()})
        return
    say(f"evidence of run {run} written to {path} ({record.bytes:,} bytes)")
    say(f"SHA-256 {record.sha256}")
    say("Verify it with: fedtags-coordinator evidence verify FILE --keys KEYS.json")


@evidence_app.command("verify")
def evidence_verify(
    file: Annotated[Path, typer.Argument(help="An evidence pack.")],
    keys: Annotated[Path, typer.Option(help="The public keys to trust (`evidence keys`).")],
    format_: FormatOption = Format.TEXT,
) -> None:
    """Verify a pack with public keys alone: no service and no network. Fails naming the part."""
    from coordinator.evidence_verify import verify
    from privacy.evidence import KeyFile

    found = verify(_read(file), KeyFile.read(_read(keys)))
    if format_ is Format.JSON:
        write_json(found.as_data())
        return
    rows = []
    rows.append(("run", f"{found.run} of the federation {found.federation}"))
    rows.append(("plan", f"{found.plan}, asked for by {found.requester}"))
    rows.append(("state", f"{found.state} (the coordinator's word)"))
    rows.append(("made", f"{found.made_at}, evidence key {found.evidence_key}"))
    signed = (
        f"{found.statements} hold" if found.statements else "none: the coordinator's word alone"
    )
    rows.append(("parties' signatures", signed))
    for party, (lower, upper) in sorted(found.epsilon.items()):
        rows.append((f"ε of {party}", f"between {lower:.4f} and {upper:.4f}, computed again"))
    for party, (position, digest) in sorted(found.heads.items()):
        rows.append((f"ledger of {party}", f"entry {position}, {digest}"))
    say(f"{file}: everything in it verifies")
    for name, value in rows:  # no table: it would cut a hash to the terminal's width
        say(f"  {name:<24}{value}")


@evidence_app.command("list")
def evidence_list(context: typer.Context, format_: FormatOption = Format.TEXT) -> None:
    """List the packs that were made, newest first, and runs that have ended without one."""
    with _evidence(context) as evidence:
        packs, missing = evidence.list(), evidence.missing()
    if format_ is Format.JSON:
        rows = [{**dataclasses.asdict(one), "made_at": one.made_at.isoformat()} for one in packs]
        write_json({"packs": rows, "missing": list(missing)})
        return
    table = Table("run", "made (UTC)", "bytes", "SHA-256", box=None)
    for one in packs:
        table.add_row(one.run_id, f"{one.made_at:%F %R}", f"{one.bytes:,}", one.sha256)
    Console(soft_wrap=True).print(table if packs else "no pack was made yet")
    if missing:
        say(f"without a pack: {', '.join(missing)}")


@evidence_app.command("keys")
def evidence_keys(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option(help="A file to write instead of the terminal.")
    ] = None,
) -> None:
    """Print the public keys that a verifier needs. Compare their fingerprints by another way."""
    with _evidence(context) as evidence:
        data = evidence.keys().to_json()
    if output is None:
        say(data.decode().rstrip("\n"))
        return
    _create(output, data)
    say(f"public keys written to {output}")


@evidence_app.command("certify")
def evidence_certify(context: typer.Context) -> None:
    """Make the key that signs packs, certified by the coordinator's key; once, in an old home."""
    from coordinator.evidence_keys import certify
    from privacy.identity import fingerprint

    home = context.obj
    assert isinstance(home, Path)
    made = certify(load_settings(home))
    say(f"evidence key {fingerprint(made.public)}, certified for the federation {made.federation}")


def _create(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConfigError(f"{path} already exists; choose another --output") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path") from error
