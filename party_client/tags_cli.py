"""`fedtags-party tags`: read the tags in this party's own profile store."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from sqlalchemy import make_url

from models.tags import JOINT_TAGS
from party_client.output_file import opened_output
from party_client.profile_store import ProfileStore, TagRecord
from party_client.settings import load_settings
from privacy.errors import ConfigError, StoreError
from privacy.hosting.commands import Format, say, write_json

app = typer.Typer(help="Read this party's own tags.", no_args_is_help=True)

EXPORT_COLUMNS = (
    "customer",
    "tag",
    "value",
    "score",
    "valid_until",
    "run_id",
    "plan_digest",
    "model_digest",
    "published_at",
    "as_of",
)


class ExportFormat(StrEnum):
    """How many customers' tags are written."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@app.command("show")
def show(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer's id at this party.")],
    output_format: Annotated[
        Format, typer.Option("--format", help="text, or json for scripts.")
    ] = Format.TEXT,
) -> None:
    """Print all tags of one customer, with where they come from; expired ones are marked."""
    with _store(context) as store:
        records = store.show(customer)
    if output_format is Format.JSON:
        write_json([record_data(record) for record in records])
    elif not records:
        say("no tag is stored for this customer")
    else:
        for record in records:
            _print(record)


@app.command("export")
def export(
    context: typer.Context,
    tag: Annotated[str, typer.Option(help="A tag's name, or name=value such as churn_risk=high.")],
    output: Annotated[
        Path | None, typer.Option(help="A file to write (mode 0600); by default standard output.")
    ] = None,
    output_format: Annotated[
        ExportFormat, typer.Option("--format", help="csv, json or parquet.")
    ] = ExportFormat.CSV,
) -> None:
    """Write one tag of every customer who has it. Expired tags are left out.

    Values are written as they are stored. An id that begins with = + - or @ is text: import the
    CSV's first column as text where a spreadsheet would run it as a formula.
    """
    name, value = _wanted(tag)
    if output_format is ExportFormat.PARQUET and output is None:
        raise ConfigError("--format parquet needs a file: add --output FILE")
    with _store(context) as store, opened_output(output) as file:
        records = store.export(name, value)
        if output_format is ExportFormat.CSV:
            _write_csv(records, file)
        elif output_format is ExportFormat.JSON:
            _write_json(records, file)
        else:
            _write_parquet(records, file)


def record_data(record: TagRecord) -> dict[str, Any]:
    """One tag with its provenance as plain data, days and times in ISO 8601."""
    source = record.publication
    return {
        "customer": record.customer,
        "tag": record.tag,
        "value": record.value,
        "score": record.score,
        "status": record.status,
        "valid_until": record.valid_until.isoformat(),
        "run_id": source.run_id,
        "plan_digest": source.plan_digest,
        "model_digest": source.model_digest,
        "parties": list(source.parties),
        "epsilon": source.epsilon,
        "delta": source.delta,
        "published_at": source.published_at.isoformat(),
        "as_of": source.as_of.isoformat(),
    }


def _wanted(text: str) -> tuple[str, str | None]:
    name, separator, value = text.partition("=")
    definition = JOINT_TAGS.get(name)
    if definition is None:
        raise ConfigError(f"--tag: unknown tag; known are {', '.join(JOINT_TAGS)}")
    if not separator:
        return name, None
    if value not in definition.values:
        raise ConfigError(f"--tag: {name} is one of {', '.join(definition.values)}")
    return name, value


@contextmanager
def _store(context: typer.Context) -> Iterator[ProfileStore]:
    home = context.obj
    assert isinstance(home, Path)
    url = load_settings(home).profile_store_url
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise StoreError("the profile store is empty: no run has published tags here yet")
    store = ProfileStore(url)
    try:
        yield store
    finally:
        store.close()


def _write_csv(records: Iterable[TagRecord], file: TextIO) -> None:
    writer = csv.DictWriter(file, EXPORT_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(record_data(record) for record in records)


def _write_parquet(records: Iterable[TagRecord], file: TextIO) -> None:
    import pandas  # half a second to import, so only where it is used

    # Stated types, so that an export without rows has the same columns as any other.
    types = {name: "float64" if name == "score" else "string" for name in EXPORT_COLUMNS}
    rows = [record_data(record) for record in records]
    frame = pandas.DataFrame(rows, columns=list(EXPORT_COLUMNS)).astype(types)
    frame.to_parquet(file.buffer, index=False)


def _write_json(records: Iterable[TagRecord], file: TextIO) -> None:
    separator = "["
    for record in records:
        file.write(f"{separator}\n{json.dumps(record_data(record))}")
        separator = ","
    file.write("[]\n" if separator == "[" else "\n]\n")


def _print(record: TagRecord) -> None:
    definition, source = JOINT_TAGS.get(record.tag), record.publication
    name = f" ({definition.display_name}, {definition.display_name_zh})" if definition else ""
    until = "expired after" if record.status == "expired" else "valid until"
    say(f"{record.tag}{name}: {record.value}, score {record.score:.3f}")
    say(f"  {until} {record.valid_until}, about {source.as_of}")
    say(f"  run {source.run_id} of {', '.join(source.parties)}")
    say(f"  model {source.model_digest}, epsilon {source.epsilon:.3g} at {source.delta:.3g}")
