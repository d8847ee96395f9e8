"""`fedtags-party check`: what a party's source holds, and how good it is. For its operator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from party_client.settings import load_settings
from privacy.errors import DataError
from privacy.hosting.commands import Format, say, write_json

if TYPE_CHECKING:
    from party_client.sources import SourceReport

FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


def check(
    context: typer.Context,
    plan: Annotated[
        Path | None, typer.Option(help="A plan to look at the source for; without it, any.")
    ] = None,
    format_: FormatOption = Format.TEXT,
    html: Annotated[
        Path | None, typer.Option(help="Write the quality report as a page to this file, too.")
    ] = None,
) -> None:
    """Read the source and say what is usable, what is rejected and what is clamped, and why.

    Then every rule of data quality: what it looked at, how much fails, and what to do. Warnings
    change no row. Rejected rows are kept aside in HOME/rejected, rows for review and the report in
    HOME/quality. Fails only where policy.toml, [quality], demands more than the source gives.
    """
    from models.plan import read_plan
    from party_client import quality_check
    from party_client.output_file import opened_output
    from party_client.policy import load_policy
    from party_client.profile_store import known_opt_outs
    from party_client.quality import PAGE_FILE, REPORT_FILE, REVIEW_FILE, load_report
    from party_client.quality_policy import require
    from party_client.quality_report import page, quality_lines, quality_table
    from party_client.sources import open_source

    settings = load_settings(context.obj)
    policy = load_policy(settings.policy).quality
    asked = None if plan is None else read_plan(plan)[0]
    earlier = load_report(settings.quality / REPORT_FILE)
    opted_out = known_opt_outs(settings)
    with open_source(settings.source, settings.home, opted_out=lambda: opted_out) as source:
        unusable: DataError | None = None
        try:
            found = source.check(asked, settings.party)
        except DataError as error:
            if asked is None:
                raise
            # Why nothing is left for the plan is what the report tells, so it comes first.
            unusable = error
            found = source.check()
            asked = asked if settings.source.kind == "events" else None
        report, review = quality_check.assess(
            source, asked, party=settings.party, found=found, earlier=earlier, policy=policy
        )
    quality_check.save(report, review, settings.quality)
    if html is not None:
        with opened_output(html) as file:
            file.write(page(report))
    if format_ is Format.JSON:
        write_json(source_json(found) | {"quality": report.as_json()})
    else:
        console = Console()
        console.print(source_table(found))
        console.print()
        console.print(quality_table(report))
        for line in quality_lines(report):
            say(line)
        if review.rows:
            say(f"rows for review lie in {settings.quality / REVIEW_FILE} (they hold ids)")
        say(f"the report as a page: {settings.quality / PAGE_FILE}")
    if unusable is not None:
        raise unusable
    require(report.usable_share, report.results, policy)


def source_table(report: SourceReport) -> Table:
    """What `check` found."""
    table = Table(box=None, show_header=False)
    table.add_row("rows read", f"{report.rows_read:,}")
    for reason, count in sorted(report.rejected.items()):
        table.add_row(f"  rejected: {reason}", f"{count:,}")
    if report.rejected_file is not None:
        table.add_row("  rejected rows lie in", str(report.rejected_file))
    table.add_row("columns", ", ".join(f"{k} = {v}" for k, v in report.columns_found.items()))
    if report.columns_missing:
        table.add_row("columns not mapped", ", ".join(report.columns_missing))
    if report.first_day is not None and report.last_day is not None:
        table.add_row("days", f"{report.first_day} to {report.last_day}")
    table.add_row("customers", f"{report.customers:,}")
    consent = "you assert that all have" if report.consent_asserted else "by the consent table"
    table.add_row("consented", f"{report.consented:,} ({consent})")
    if report.clamped is None or report.eligible is None:
        table.add_row("clamped values", "give --plan: a feature table's ranges are the plan's")
    else:
        table.add_row("eligible", f"{report.eligible:,}")
        clamped = (f"{name} {count:,}" for name, count in report.clamped.items())
        table.add_row("clamped values", ", ".join(clamped) or "none")
    return table


def source_json(report: SourceReport) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "rows_read": report.rows_read,
        "rejected": dict(report.rejected),
        "rejected_file": str(report.rejected_file) if report.rejected_file else None,
        "columns_found": dict(report.columns_found),
        "columns_missing": list(report.columns_missing),
        "customers": report.customers,
        "consented": report.consented,
        "consent_asserted": report.consent_asserted,
        "first_day": report.first_day.isoformat() if report.first_day else None,
        "last_day": report.last_day.isoformat() if report.last_day else None,
        "eligible": report.eligible,
        "clamped": None if report.clamped is None else dict(report.clamped),
    }
