"""`fedtags-coordinator` commands for operation: proxy, backup, restore, ready, alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.settings import CoordinatorSettings, load_settings
from privacy.errors import NotRunningError
from privacy.hosting.commands import Format, say, write_json

proxy_app = typer.Typer(help="The proxy in front: its configuration.", no_args_is_help=True)
alerts_app = typer.Typer(help="Alerts: what people are warned of.", no_args_is_help=True)
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]
PassphraseOption = Annotated[
    Path,
    typer.Option(help="A file (mode 0600) whose first line is the passphrase, 16 bytes or more."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `fedtags-coordinator`."""
    app.add_typer(proxy_app, name="proxy")
    app.add_typer(alerts_app, name="alerts")
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("ready")(ready)


@proxy_app.command("write")
def proxy_write(
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(help="Another folder than HOME/proxy, to be given to nginx's own user."),
    ] = None,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Write nginx's configuration from [proxy] in coordinator.toml, replacing the old.

    The folder is whole: configuration, certificate and key for partners, the certificate authority.
    """
    from coordinator.proxy import write_proxy_config

    settings = _settings(context)
    written = write_proxy_config(settings, output.absolute() if output else None)
    proxy = settings.proxy
    if output_format is Format.JSON:
        write_json(
            {
                "file": str(written.main),
                "enabled": proxy.enabled,
                "partners_port": proxy.partners_port,
                "people_port": proxy.people_port,
                "certificate_expires": written.expires.isoformat(),
            }
        )
        return
    say(f"wrote {written.main}; partners' certificate is good until {written.expires:%F}")
    say(f"  partners: {settings.invited_superlink}   people: {settings.people_url}")
    if not proxy.enabled:
        say("  [proxy] is not enabled: invites still name the services' own addresses")
    say(f"Next: nginx -t -p {written.folder} -c nginx.conf, then start or reload nginx")


@alerts_app.command("list")
def alerts_list(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Resolved ones, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """List open alerts, the newest first. Reads the database; no service need run."""
    from rich.console import Console
    from rich.table import Table

    from coordinator.alerts import AlertStore

    store = AlertStore(_settings(context).database_url)
    try:
        found = list(store.page(limit=limit) if all_ else store.open())[:limit]
    finally:
        store.close()
    if output_format is Format.JSON:
        write_json(
            [
                {
                    "number": one.number,
                    "kind": one.kind.value,
                    "subject": one.subject,
                    "message": one.message,
                    "raised_at": one.raised_at.isoformat(),
                    "resolved_at": one.resolved_at.isoformat() if one.resolved_at else None,
                }
                for one in found
            ]
        )
        return
    table = Table("number", "since (UTC)", "kind", "what", "over (UTC)", box=None)
    for one in found:
        over = f"{one.resolved_at:%F %R}" if one.resolved_at else ""
        table.add_row(str(one.number), f"{one.raised_at:%F %R}", one.kind.value, one.message, over)
    Console().print(table if found else "no alert")


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to write; never overwritten.")],
    passphrase_file: PassphraseOption,
) -> None:
    """Write settings, keys, database, audit log and evidence packs into one encrypted file.

    The coordinator may be running. A database on a server is in it as well.
    """
    from coordinator.backup import make_backup

    made = make_backup(_settings(context), file, passphrase_file=passphrase_file)
    say(f"wrote {file}: {made.files} files, {made.rows} rows of the database")
    say(f"audit log {made.audit or 'none yet'}")
    if made.left_out:
        say(f"not in it: {', '.join(made.left_out)}")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    passphrase_file: PassphraseOption,
    database_url: Annotated[
        str | None,
        typer.Option(help="Another, empty database than the settings' (SQLAlchemy URL)."),
    ] = None,
) -> None:
    """Make a new --home from a backup; all of it is checked before anything is written.

    Make sure that the old coordinator is off: two of one federation confuse the parties.
    """
    from coordinator.backup import restore_backup

    home = context.obj
    assert isinstance(home, Path)
    made = restore_backup(home, file, passphrase_file=passphrase_file, database_url=database_url)
    say(f"restored federation {made.federation} of {made.made_at:%F %R} UTC into {home}")
    say(f"  {made.files} files, {made.rows} rows; audit log {made.audit or 'none'}")
    say(f"  coordinator fingerprint {made.coordinator_fingerprint}")
    say("Next: proxy write, then start")


def ready(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Say what keeps the running coordinator from its work; exit code 25 if anything does."""
    from coordinator.readiness import ask_ready

    missing = ask_ready(_settings(context))
    if output_format is Format.JSON:
        write_json({"ready": not missing, "missing": missing})
    else:
        for one in missing or ["ready"]:
            say(one)
    if missing:
        raise typer.Exit(NotRunningError.exit_code)


def _settings(context: typer.Context) -> CoordinatorSettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)
