"""`fedtags-coordinator audit`: who asked this coordinator for what, and whether the log is whole.

The audit log is hash-chained; see `privacy.hosting.access_log`. Nothing of it is ever removed by
fedtags: keep every file of it for three years at least.
"""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.settings import load_settings
from privacy.hosting.commands import Format, say, write_json
from privacy.hosting.people_commands import FormatOption, home_of, print_records

PAGE_LINES = 50

app = typer.Typer(help="Read and check the audit log.", no_args_is_help=True)


@app.command("list")
def list_records(
    context: typer.Context,
    page: Annotated[
        int, typer.Option(min=1, help=f"Pages of {PAGE_LINES} lines, newest first.")
    ] = 1,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Who asked for what, as the lines stand; `audit verify` says whether they are whole."""
    from privacy.hosting.access_log import read_page

    found, _ = read_page(load_settings(home_of(context)).audit_log, page, PAGE_LINES)
    print_records(found, output_format)


@app.command("verify")
def verify(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Check every byte and hash of the audit log's files, and print the newest head and the oldest
    line's day.

    Exit code 21 if they are not what was written. Lines cut from the end show only against a head
    that was kept elsewhere, such as one in an evidence pack.
    """
    from privacy.hosting.access_log import read_page, verify_log

    path = load_settings(home_of(context)).audit_log
    entries, head = verify_log(path)
    oldest = read_page(path, read_page(path, 1, PAGE_LINES)[1], PAGE_LINES)[0][-1:]
    since = f"{oldest[0].time:%F}" if oldest else None
    newest = f"{head.sequence}:{head.hash}"
    if output_format is Format.JSON:
        write_json({"verified": True, "entries": entries, "head": newest, "since": since})
        return
    say(f"audit log: {entries} entries, every byte and hash as it was written")
    say(f"since {since}; nothing is ever removed from it: keep its files for three years at least")
    say(f"head {newest}")
