"""`fedtags-party tags`: read the tags in this party's own profile store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from sqlalchemy import make_url

from models.reasons import reason_text
from models.tag_catalogue import Catalogue
from party_client.command_access import note_access
from party_client.customer_ids import normalise
from party_client.output_file import opened_output
from party_client.profile_store import Profile, ProfileStore, TagRecord, open_profile_store
from party_client.roles import Permission
from party_client.segment_files import segment_pieces
from party_client.settings import PartySettings, load_settings
from privacy.errors import ConfigError, StoreError
from privacy.hosting.commands import Format, say, write_json

app = typer.Typer(help="Read this party's own tags.", no_args_is_help=True)

PurposeOption = Annotated[str, typer.Option(help="What for: a purpose that the tags allow.")]
CustomerArgument = Annotated[str, typer.Argument(help="The customer's id at this party.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


class ExportFormat(StrEnum):
    """How many customers' tags are written."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@app.command("show")
def show(
    context: typer.Context,
    customer: CustomerArgument,
    purpose: PurposeOption,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Print the tags of one customer that may be read for a purpose, with where they come from."""
    with opened_store(context) as (settings, store):
        known = normalise(customer, settings.source)
        require_purpose(store.catalogue, purpose)
        note_access(settings, Permission.READ_CUSTOMER, customer=known, detail=f"for {purpose}")
        profile = store.profile(known, purpose=purpose)
    if output_format is Format.JSON:
        write_json(
            {
                "customer": profile.customer,
                "purpose": profile.purpose,
                "consent": profile.consent,
                "opted_out": profile.opted_out,
                "tags": [record_data(record) for record in profile.tags],
            }
        )
    elif not profile.tags:
        say(_why_nothing(profile))
    else:
        for record in profile.tags:
            _print(record, store.catalogue)


@app.command("history")
def history(
    context: typer.Context,
    customer: CustomerArgument,
    tag: Annotated[str, typer.Option(help="A tag's name.")],
    purpose: PurposeOption,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Print what one tag of a customer was before, the newest first."""
    with opened_store(context) as (settings, store):
        known = normalise(customer, settings.source)
        name, _ = wanted_tag(store.catalogue, tag, purpose)
        note_access(settings, Permission.READ_CUSTOMER, customer=known, detail=f"for {purpose}")
        records = store.history(known, name, purpose=purpose)
    if output_format is Format.JSON:
        write_json([record_data(record) for record in records])
    elif not records:
        say("no earlier value is kept, or it may not be read for this purpose")
    else:
        for record in records:
            _print(record, store.catalogue)


@app.command("export")
def export(
    context: typer.Context,
    tag: Annotated[str, typer.Option(help="A tag's name, or name=value such as churn_risk=high.")],
    purpose: PurposeOption,
    changed_since: Annotated[
        str | None,
        typer.Option(help="A run's id: only customers whose value a later run has set."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A file to write (mode 0600); by default standard output.")
    ] = None,
    output_format: Annotated[
        ExportFormat, typer.Option("--format", help="csv, json or parquet.")
    ] = ExportFormat.CSV,
) -> None:
    """Write one tag of every customer for whom it may be read now.

    Values are written as they are stored. An id that begins with = + - or @ is text: import the
    CSV's first column as text where a spreadsheet would run it as a formula.
    """
    if output_format is ExportFormat.PARQUET and output is None:
        raise ConfigError("--format parquet needs a file: add --output FILE")
    with opened_store(context) as (settings, store):
        name, value = wanted_tag(store.catalogue, tag, purpose)
        note_access(settings, Permission.EXPORT, detail=f"{name}={value or '*'} for {purpose}")
        records = store.export(name, value, purpose=purpose, since=changed_since)
        with opened_output(output) as file:
            if output_format is ExportFormat.JSON:
                _write_json(records, file)
                return
            for piece in segment_pieces(records, output_format.value):
                file.buffer.write(piece)


@app.command("deliver")
def deliver(context: typer.Context) -> None:
    """Send waiting events to the webhook now. The web process does it every few seconds."""
    from party_client.webhooks import deliver_pending

    with opened_store(context) as (settings, store):
        if settings.webhook is None:
            raise ConfigError("party.toml has no section [webhook]: there is nobody to tell")
        deliver_pending(store, settings)
        waiting = bool(store.pending_events()) or store.has_undelivered()
    say("some events wait for another attempt" if waiting else "nothing is left to deliver")


def record_data(record: TagRecord) -> dict[str, Any]:
    """One tag with its provenance as plain data, days and times in ISO 8601."""
    source = record.provenance
    data: dict[str, Any] = {
        "customer": record.customer,
        "tag": record.tag,
        "value": record.value,
        "score": record.score,
        "reasons": list(record.reasons),
        "valid_until": record.valid_until.isoformat(),
        "kind": source.kind,
        "run_id": source.run_id,
        "plan_digest": source.plan_digest,
        "model_digest": source.model_digest,
        "parties": list(source.parties),
        "epsilon": source.epsilon,
        "delta": source.delta,
        "published_at": source.published_at.isoformat(),
        "as_of": source.as_of.isoformat(),
        "consent_receipt": source.consent_receipt,
        "status": source.status,
    }
    if record.replaced_by is not None:
        data["replaced_by"] = record.replaced_by
    return data


def require_purpose(catalogue: Catalogue, purpose: str) -> None:
    """Raise ConfigError unless some tag of the catalogue may be read for `purpose`."""
    known = sorted({name for tag in catalogue.tags for name in tag.purposes})
    if purpose not in known:
        raise ConfigError(f"--purpose: one of {', '.join(known)}")


def wanted_tag(catalogue: Catalogue, text: str, purpose: str) -> tuple[str, str | None]:
    """Name and value of NAME or NAME=VALUE. Raises ConfigError for what may not be read so."""
    require_purpose(catalogue, purpose)
    name, separator, value = text.partition("=")
    tag = catalogue.get(name)
    if tag is None or tag.value_type == "group":
        raise ConfigError(
            "--tag: unknown tag; `fedtags-party tags catalogue` lists those that are known"
        )
    if not tag.readable or purpose not in tag.purposes:
        raise ConfigError(
            f"--tag: {name} may not be read for this purpose; it is {tag.state}, and may be read "
            f"for {', '.join(tag.purposes)}"
        )
    if not separator:
        return name, None
    if not tag.accepts(value):
        raise ConfigError(f"--tag: {name} is one of {', '.join(tag.values) or 'its own texts'}")
    return name, value


@contextmanager
def opened_store(context: typer.Context) -> Iterator[tuple[PartySettings, ProfileStore]]:
    """The home's settings and its store, which must exist."""
    home = context.obj
    assert isinstance(home, Path)
    settings = load_settings(home)
    parsed = make_url(settings.profile_store_url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise StoreError("the profile store is empty: no run has published tags here yet")
    store = open_profile_store(settings)
    try:
        yield settings, store
    finally:
        store.close()


def _why_nothing(profile: Profile) -> str:
    if profile.opted_out:
        return "the customer has opted out: no tag is kept"
    if not profile.consent:
        return "the customer's consent to this purpose does not stand: no tag may be read"
    return "no tag of this customer may be read for this purpose now"


def _write_json(records: Iterable[TagRecord], file: TextIO) -> None:
    separator = "["
    for record in records:
        file.write(f"{separator}\n{json.dumps(record_data(record))}")
        separator = ","
    file.write("[]\n" if separator == "[" else "\n]\n")


def _print(record: TagRecord, catalogue: Catalogue) -> None:
    definition, source = catalogue[record.tag], record.provenance
    name = f"{record.tag} ({definition.display_name}, {definition.display_name_zh})"
    score = "" if record.score is None else f", score {record.score:.3f}"
    say(f"{name}: {record.value}{score}")
    for code in record.reasons:
        say(f"  because: {reason_text(code, 'en')} ({reason_text(code, 'zh')})")
    say(f"  valid until {record.valid_until}, about {source.as_of}")
    if source.kind == "joint":
        say(f"  run {source.run_id} of {', '.join(source.parties)}")
        say(f"  model {source.model_digest}, epsilon {source.epsilon:.3g} at {source.delta:.3g}")
    else:
        say(f"  computed here, refresh {source.run_id}")
    if record.replaced_by is not None:
        say(f"  replaced by {record.replaced_by}")
