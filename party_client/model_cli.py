"""`fedtags-party model`: the models that this party keeps, and files of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from party_client.settings import PartySettings, load_settings
from privacy.hosting.commands import Format, say, write_json

app = typer.Typer(help="List and export the models of finished runs.", no_args_is_help=True)
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]
NO_UNLEARNING = (
    "A customer who opts out is not unlearned from a model that is kept or was exported."
)


class ModelForm(StrEnum):
    """A model file's format."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"


@app.command("list")
def list_(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """List the models that are kept: run, plan, parties, epsilon and digest, newest first.

    What party.toml's [models] does not keep any longer is deleted before.
    """
    from party_client.model_export import card_of
    from party_client.model_shelf import open_shelf

    settings = _settings(context)
    kept = open_shelf(settings).listed()
    if output_format is Format.JSON:
        write_json([card_of(one) for one in kept])
        return
    if not kept:
        say("no model is kept; one is after each run that this party finishes ([models] keep)")
        return
    for one in kept:
        say(
            f"{one.run}  {one.plan.name}  {one.published_at:%F %R} UTC  "
            f"{', '.join(one.parties)}  epsilon {one.epsilon:.4g}  {one.model_digest}"
        )
    say(f"Each is deleted {settings.models.keep_days} days after it was made. {NO_UNLEARNING}")


@app.command()
def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run whose model it is.")],
    output: Annotated[Path, typer.Option(help="The file to write; never overwritten.")],
    form: Annotated[
        ModelForm, typer.Option("--format", help="The file's format.")
    ] = ModelForm.SAFETENSORS,
) -> None:
    """Write a model to a file, and its model card beside it as Markdown and JSON.

    The features that it takes are in the card. That it was exported is in the access log.
    """
    from party_client.command_access import note_access
    from party_client.model_export import export as write
    from party_client.model_shelf import open_shelf
    from party_client.roles import Permission

    settings = _settings(context)
    kept = open_shelf(settings).get(run)
    note_access(settings, Permission.EXPORT_MODEL, detail=f"{run} as {form.value}")
    made, markdown, plain = write(kept, form.value, output)
    say(f"wrote {made}, {markdown.name} and {plain.name}")
    say(NO_UNLEARNING)


def _settings(context: typer.Context) -> PartySettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)
