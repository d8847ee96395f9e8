"""`fedtags-party customer`: one customer's data here, and their opt-out."""

from __future__ import annotations

from typing import Annotated

import typer

from party_client.command_access import command_user, note_access
from party_client.customer_ids import normalise
from party_client.opt_out import models_in_words
from party_client.profile_store import Participation, open_profile_store
from party_client.roles import Permission
from party_client.settings import load_settings
from party_client.tags_cli import CustomerArgument, FormatOption, record_data
from privacy.errors import ConfigError
from privacy.hosting.commands import Format, say, write_json

app = typer.Typer(help="One customer's data here, and their opt-out.", no_args_is_help=True)

DOES_NOT_UNLEARN = (
    "An opt-out does not unlearn: these models keep what they learned. What a model can show about "
    "one customer is bounded by the epsilon of its run."
)
LONGEST_REASON = 200


@app.command("show")
def show(
    context: typer.Context,
    customer: CustomerArgument,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Print all that the profile store holds about one customer, for the customer's own question.

    Tags stand under each purpose for which they may be read now.
    """
    settings = load_settings(context.obj)
    known = normalise(customer, settings.source)
    store = open_profile_store(settings)
    try:
        note_access(settings, Permission.READ_CUSTOMER, customer=known, detail="all purposes")
        purposes = sorted({name for tag in store.catalogue.tags for name in tag.purposes})
        consent = store.consent_known()
        profiles = [store.profile(known, purpose=one) for one in purposes if consent]
        models = store.participations(known)
        gone = known in store.opted_out()
    finally:
        store.close()
    if output_format is Format.JSON:
        write_json(
            {
                "customer": known,
                "consent_known": consent,
                "opted_out": gone,
                "purposes": {
                    one.purpose: {
                        "consent": one.consent,
                        "tags": [record_data(record) for record in one.tags],
                    }
                    for one in profiles
                },
                "models": [_model_data(one) for one in models],
            }
        )
        return
    if not consent:
        say("nobody's consent is known here yet: run fedtags-party consent refresh")
    if gone:
        say("the customer has opted out: no tag is kept, whatever consent says")
    for one in () if gone else profiles:
        stands = "consent stands" if one.consent else "no consent"
        said = ", ".join(f"{record.tag}={record.value}" for record in one.tags)
        say(f"{one.purpose}: {stands}{'; ' + said if said else ''}")
    _say_models(models)


@app.command("opt-out")
def opt_out(
    context: typer.Context,
    customer: CustomerArgument,
    reason: Annotated[str, typer.Option(help="Why, in a few words; it is kept, sealed.")],
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Honour a customer's opt-out: tags and their history go, a tombstone stays.

    The customer is in no later cohort and is not scored, and no import brings the tags back. This
    does not unlearn: the models that the customer took part in are listed, and stay as they are.
    """
    settings = load_settings(context.obj)
    known, why = normalise(customer, settings.source), reason.strip()
    if not 0 < len(why) <= LONGEST_REASON:
        raise ConfigError(f"--reason: 1 to {LONGEST_REASON} characters")
    store = open_profile_store(settings)
    try:
        note_access(settings, Permission.OPT_OUT, customer=known)
        done = store.opt_out(known, person=command_user(), reason=why)
    finally:
        store.close()
    if output_format is Format.JSON:
        write_json(
            {
                "customer": known,
                "opted_out_at": done.at.isoformat(),
                "repeated": done.repeated,
                "models": [_model_data(one) for one in done.models],
                "note": DOES_NOT_UNLEARN,
            }
        )
        return
    since = f"{done.at:%Y-%m-%d %H:%M} UTC"
    say(f"opted out already, since {since}" if done.repeated else f"opted out at {since}")
    say("tags and their history are removed; the customer is in no later cohort")
    _say_models(done.models)
    if done.models:
        say(DOES_NOT_UNLEARN)


def _say_models(models: tuple[Participation, ...]) -> None:
    if not models:
        say("took part in no model")
        return
    say("took part in:")
    for line in models_in_words(models):
        say(f"  {line}")


def _model_data(one: Participation) -> dict[str, str | None]:
    return {
        "run_id": one.run_id,
        "plan": one.plan,
        "plan_digest": one.plan_digest,
        "model_digest": one.model_digest,
        "role": one.role,
        "at": one.at.isoformat(),
    }
