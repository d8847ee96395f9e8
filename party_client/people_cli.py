"""`fedtags-party people`, `token` and `access`: who may use this node's API and console, and did.

On this machine these commands need no sign-in: whoever may write the home may make an admin. What
they change is in the access log under the operating system's user.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from party_client.roles import Permission, Role
from party_client.settings import PartySettings, load_settings
from privacy.errors import ConfigError
from privacy.hosting.commands import Format, say, write_json

if TYPE_CHECKING:
    from privacy.hosting.access import Access
    from privacy.hosting.access_log import AccessRecord

people_app = typer.Typer(
    help="People who may use this node's API and console.", no_args_is_help=True
)
token_app = typer.Typer(help="API tokens, for programs.", no_args_is_help=True)
access_app = typer.Typer(help="Read and check the access log.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Lower-case letters, digits and . _ @ -.")]
RoleOption = Annotated[Role, typer.Option(help="What this is for.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]
PasswordOption = Annotated[
    Path | None,
    typer.Option(help="A file whose first line is the password; by default it is asked for."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `fedtags-party`."""
    app.add_typer(people_app, name="people")
    app.add_typer(token_app, name="token")
    app.add_typer(access_app, name="access")


@people_app.command("add")
def add_person(
    context: typer.Context,
    name: NameArgument,
    role: RoleOption,
    password_file: PasswordOption = None,
) -> None:
    """Add a person. The first admin is made here."""
    password = _password(password_file)
    with _changing(context, f"add {name} as {role}") as access:
        access.add_person(name, role, password)
    say(f"{name} may sign in as {role}")


@people_app.command("list")
def list_people(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Everyone with a role, those who were removed included."""
    with _access(_settings(context)) as access:
        found = access.people()
    if output_format is Format.JSON:
        write_json([_plain(asdict(one)) for one in found])
        return
    _table(
        ("name", "role", "state", "password", "since"),
        [
            (one.name, one.role, one.state, "yes" if one.has_password else "no", one.created_at)
            for one in found
        ],
    )


@people_app.command("set-role")
def set_role(context: typer.Context, name: NameArgument, role: RoleOption) -> None:
    """Change a person's role, from the next request on."""
    with _changing(context, f"{name} becomes {role}") as access:
        access.set_role(name, role)
    say(f"{name} is {role} now")


@people_app.command("set-password")
def set_password(
    context: typer.Context, name: NameArgument, password_file: PasswordOption = None
) -> None:
    """Give a person a new password; it ends the person's sessions and forgets failed attempts."""
    from privacy.hosting.sessions import Sessions

    password = _password(password_file)
    with _changing(context, f"new password for {name}") as access:
        access.set_password(name, password)
        Sessions(access).forgive(name)
    say(f"{name} has a new password")


@people_app.command("remove")
def remove_person(context: typer.Context, name: NameArgument) -> None:
    """Remove a person and end the person's sessions. The name stays listed."""
    with _changing(context, f"remove {name}") as access:
        made = access.remove_person(name)
    say(f"{name} may not sign in any more")
    if made:
        say(f"tokens that {name} made stay valid: {', '.join(made)}; revoke them with token revoke")


@token_app.command("create")
def create_token(
    context: typer.Context,
    name: NameArgument,
    role: RoleOption,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="It ends by itself after these.")
    ] = 365,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Make an API token and print it: it is shown this once and stored nowhere."""
    with _changing(context, f"create token {name} as {role}") as access:
        token, secret = access.create_token(name, role, created_by=_user(), days=days)
    if output_format is Format.JSON:
        write_json(_plain(asdict(token)) | {"secret": secret})
        return
    say(f"token {name} for {role}, until {token.expires_at:%F}. It is shown this once:")
    say(secret)


@token_app.command("list")
def list_tokens(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Every API token, without its secret; those that were revoked or have ended included."""
    from privacy.hosting.database import utc_now

    with _access(_settings(context)) as access:
        found = access.tokens()
    if output_format is Format.JSON:
        write_json([_plain(asdict(one)) for one in found])
        return
    now = utc_now()
    _table(
        ("name", "role", "valid", "until", "last used", "made by"),
        [
            (
                one.name,
                one.role,
                "yes" if one.valid(now) else "no",
                one.revoked_at or one.expires_at,
                one.last_used or "never",
                one.created_by,
            )
            for one in found
        ],
    )


@token_app.command("revoke")
def revoke_token(context: typer.Context, name: NameArgument) -> None:
    """Make an API token useless from the next request on."""
    with _changing(context, f"revoke token {name}") as access:
        access.revoke_token(name)
    say(f"token {name} opens nothing any more")


@access_app.command("verify")
def verify(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Check every byte and hash of the access log's files, and print the newest head.

    Exit code 21 if they are not what was written. Lines cut from the end show only against a head
    that was kept elsewhere.
    """
    from privacy.hosting.access_log import verify_log

    entries, head = verify_log(_settings(context).access_log)
    if output_format is Format.JSON:
        write_json({"verified": True, "entries": entries, "head": f"{head.sequence}:{head.hash}"})
        return
    say(f"access log: {entries} entries, every byte and hash as it was written")
    say(f"head {head.sequence}:{head.hash}")


@access_app.command("show")
def show(
    context: typer.Context,
    customer: Annotated[
        str | None, typer.Option(help="Only lines about this customer, of every file.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, help="Pages of 50 lines, newest first.")] = 1,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Who asked for what. The log holds no customer's id; --customer computes its keyed hash."""
    from party_client.customer_ids import normalise
    from party_client.people import customer_hash
    from privacy.hosting.access_log import find_customer, read_page

    settings = _settings(context)
    found: list[AccessRecord]
    if customer is None:
        found, _ = read_page(settings.access_log, page, 50)
    else:
        known = normalise(customer, settings.source)
        with _access(settings) as access:
            hashed = customer_hash(access, known)
        found = list(find_customer(settings.access_log, hashed))
    if output_format is Format.JSON:
        write_json([_plain(asdict(one)) for one in found])
        return
    _table(
        ("time (UTC)", "who", "role", "what", "", "from", "about"),
        [
            (
                one.time,
                one.who,
                one.role,
                f"{one.what} {one.detail}".strip(),
                "" if one.allowed else "DENIED",
                one.address,
                (one.customer or "")[:12],
            )
            for one in found
        ],
    )


def _settings(context: typer.Context) -> PartySettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)


@contextmanager
def _access(settings: PartySettings) -> Iterator[Access]:
    from party_client.people import open_access

    access = open_access(settings)
    try:
        yield access
    finally:
        access.close()


@contextmanager
def _changing(context: typer.Context, detail: str) -> Iterator[Access]:
    """The people and tokens, once the access log holds that they are about to be changed."""
    from privacy.hosting.access import Principal
    from privacy.hosting.access_log import AccessLog

    settings = _settings(context)
    log = AccessLog(settings.access_log)
    try:
        who = Principal(_user(), Role.ADMIN, "command")
        log.record(who, Permission.MANAGE_PEOPLE.value, allowed=True, detail=detail)
        log.flush()
    finally:
        log.close()
    with _access(settings) as access:
        yield access


def _user() -> str:
    """The operating system's user, marked so that no person of the node has the name."""
    try:
        return f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"os:{os.getuid()}"


def _password(file: Path | None) -> str:
    if file is None:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        assert isinstance(password, str)
        return password
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--password-file {file} cannot be read as text") from error
    if not lines:
        raise ConfigError(f"--password-file {file} is empty; its first line is the password")
    return lines[0]


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: one.isoformat() if isinstance(one, (date, datetime)) else one
        for key, one in value.items()
    }


def _table(headings: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(one: object) -> Text:
        text = f"{one:%F %T}" if isinstance(one, datetime) else str(one)
        # Names and details came from outside: no character that a terminal obeys.
        return Text("".join(part if part.isprintable() else "\ufffd" for part in text))

    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(*map(cell, row))
    Console().print(table)
