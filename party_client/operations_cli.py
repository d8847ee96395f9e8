"""`fedtags-party` commands that run a node: start, stop, ready, backup, restore and more."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from party_client.processes import Part
from party_client.settings import PartySettings, load_settings
from privacy.errors import NotRunningError
from privacy.hosting.commands import Format, say, write_json

egress_app = typer.Typer(help="See and check what has left this party.", no_args_is_help=True)
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]
PassphraseOption = Annotated[
    Path,
    typer.Option(help="A file (mode 0600) whose first line is the passphrase, 16 bytes or more."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `fedtags-party`."""
    app.add_typer(egress_app, name="egress")
    app.command("start")(start)
    app.command("stop")(stop)
    app.command("ready")(ready)
    app.command("node-home")(node_home)
    app.command("backup")(backup)
    app.command("restore")(restore)


def start(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
    part: Annotated[
        Part, typer.Option(help="What to run: all, or one part under a user of its own.")
    ] = Part.ALL,
) -> None:
    """Run the party service, the SuperNode and the console; in the foreground unless --detach.

    With isolation.node_user set, `all` leaves the SuperNode out: start --part node runs it, under
    that user, from the folder that node-home made.
    """
    from party_client import node_home, processes

    home = _home(context)
    isolated = part is Part.NODE and node_home.is_node_home(home)
    if isolated:
        node = node_home.load_node_home(home)
        party = node.files.party
    else:
        settings = _settings(context)
        party = settings.party
    if detach:
        pid = processes.run_detached(home, part)
        say(f"party {party} running (pid {pid}); stop it with `stop`")
        return
    say(f"starting party {party}; logs in {home / 'logs'}; Ctrl-C stops it")
    if isolated:
        processes.run_node(node)
    else:
        processes.run_foreground(settings, part)


def stop(context: typer.Context) -> None:
    """Stop what `start` started, in whichever parts."""
    from party_client import node_home, processes

    home = _home(context)
    if not node_home.is_node_home(home):
        _settings(context)
    processes.stop(home)
    say("party stopped")


def ready(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Say what is missing before this node can take part in a run; exit code 25 if anything is."""
    from party_client import metrics

    missing = metrics.ready(_settings(context))
    if output_format is Format.JSON:
        write_json({"ready": not missing, "missing": missing})
    else:
        for one in missing or ["ready"]:
            say(one)
    if missing:
        raise typer.Exit(NotRunningError.exit_code)


def node_home(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
) -> None:
    """Make a folder for a SuperNode that runs under a user of its own (isolation.node_user).

    It holds the SuperNode's key, the coordinator's certificate authority, the address and the
    socket's path: nothing else of this party. Only root can give it to that user.
    """
    from party_client.node_home import export_node_home

    export_node_home(_settings(context), folder.absolute())
    say(f"made {folder}; run as that user: fedtags-party --home {folder} start --part node")


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to write; never overwritten.")],
    passphrase_file: PassphraseOption,
    without_store: Annotated[
        bool,
        typer.Option("--without-store", help="The profile store has a backup of its own."),
    ] = False,
) -> None:
    """Write ledger, logs, keys, settings and profile store into one encrypted file.

    The party may be running. A store on a database server needs that server's own dump:
    --without-store says that you make one.
    """
    from party_client.backup import make_backup

    made = make_backup(
        _settings(context), file, passphrase_file=passphrase_file, without_store=without_store
    )
    say(f"{file}: {made.files} files, ledger head {made.ledger_head}")
    if not made.store:
        say("the profile store is NOT in it: dump that database by its own means, at the same time")
    if made.left_out:
        say(f"left out: {', '.join(made.left_out)}")
    say("keep the passphrase elsewhere: without it nobody can open this file")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that backup wrote.")],
    passphrase_file: PassphraseOption,
) -> None:
    """Make a home (--home, which must not exist or be empty) from a backup.

    All of it is checked before anything is written. If the party has run since the backup was made,
    the other members' heads charge the ledger for what is missing at the next run.
    """
    from party_client.backup import restore_backup

    restored = restore_backup(_home(context), file, passphrase_file=passphrase_file)
    say(f"restored {restored.files} files, of {restored.made_at:%F %T} UTC, into {_home(context)}")
    say(f"ledger head {restored.ledger_head}")
    if not restored.store:
        say("the profile store was not in it: restore that database by its own means")
    say("repeat every opt-out that came in since; docs/how-to/restore-from-backup says what else")


@egress_app.command("show")
def show(
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="One run's messages only.")] = None,
    last: Annotated[int, typer.Option(min=1, help="So many of the newest messages.")] = 50,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """List what has left: every message's time, kind, size, shape and SHA-256, newest first.

    The epsilon of a line is what the ledger charged for that message by itself; 0 for what was sent
    again. The budget is in the ledger, which composes them.
    """
    from rich.console import Console

    from party_client import egress
    from party_client.egress_view import egress_table

    settings = _settings(context)
    entries = [
        one
        for one in egress.read_page(settings, 1, egress.count(settings))
        if run is None or one.run == run
    ][:last]
    if output_format is Format.JSON:
        write_json([dataclasses.asdict(one) | {"time": one.time.isoformat()} for one in entries])
    else:
        Console().print(egress_table(entries))


@egress_app.command("verify")
def verify(
    context: typer.Context,
    known: Annotated[
        str | None,
        typer.Option(
            metavar="SEQUENCE:HASH",
            help="A head that you know from elsewhere: the log must hold it.",
        ),
    ] = None,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Check every byte and hash of the egress log, and print its head.

    Exit code 21 if it is not what was written, naming the line. Lines cut from the end show only
    against a head that was kept elsewhere.
    """
    from party_client import egress

    settings = _settings(context)
    head = egress.verify(settings, known)
    if output_format is Format.JSON:
        write_json(
            {
                "party": settings.party,
                "verified": True,
                "messages": egress.count(settings),
                "head": None if head is None else f"{head.sequence}:{head.hash}",
            }
        )
        return
    say(f"egress log of {settings.party}: every byte and hash is as it was written")
    say("nothing has left yet" if head is None else f"head {head.sequence}:{head.hash}")


def _home(context: typer.Context) -> Path:
    home = context.obj
    assert isinstance(home, Path)
    return home


def _settings(context: typer.Context) -> PartySettings:
    return load_settings(_home(context))
