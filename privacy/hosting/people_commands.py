"""The commands `people` and `token`, and what else commands about access share.

On a service's own machine these commands need no sign-in: whoever may write the home may make an
admin. What they change is in the service's log of access under the operating system's user.
"""

# No `from __future__ import annotations`: options are made of a service's own words, which only
# the functions that hold the commands know.
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy.errors import ConfigError
from privacy.hosting.commands import Format, say, write_json

if TYPE_CHECKING:
    from privacy.hosting.access import Access, Principal
    from privacy.hosting.access_log import AccessRecord

NameArgument = Annotated[str, typer.Argument(help="Lower-case letters, digits and . _ @ -.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]
PasswordOption = Annotated[
    Path | None,
    typer.Option(help="A file whose first line is the password; by default it is asked for."),
]


@dataclass(frozen=True)
class AccessCommands:
    """What is a service's own about these commands.

    `access(home)`: its people and tokens, until the block ends. `log(home)`: its log of access.
    `manage`: the permission that the changes need, as the log calls it. `check_role`: raises
    ConfigError for a word that is none of `roles`, which the help shows.
    """

    access: Callable[[Path], "AbstractContextManager[Access]"]
    log: Callable[[Path], Path]
    manage: str
    check_role: Callable[[str], str]
    roles: str

    @contextmanager
    def changing(self, context: typer.Context, detail: str) -> "Iterator[Access]":
        """The people and tokens, once the log holds that they are about to be changed."""
        from privacy.hosting.access_log import AccessLog

        log = AccessLog(self.log(home_of(context)))
        try:
            log.record(os_user(), self.manage, allowed=True, detail=detail)
            log.flush()
        finally:
            log.close()
        with self.access(home_of(context)) as access:
            yield access


def people_app(of: AccessCommands, who: str) -> typer.Typer:
    """`people add|list|set-role|set-password|remove`. `who`: what the people are for."""
    app = typer.Typer(help=who, no_args_is_help=True)

    @app.command("add")
    def add_person(
        context: typer.Context,
        name: NameArgument,
        role: Annotated[str, typer.Option(help=of.roles)],
        password_file: PasswordOption = None,
    ) -> None:
        """Add a person. The first admin is made here."""
        of.check_role(role)
        password = _password(password_file)
        with of.changing(context, f"add {name} as {role}") as access:
            access.add_person(name, role, password)
        say(f"{name} may sign in as {role}")

    @app.command("list")
    def list_people(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
        """Everyone with a role, those who were removed included."""
        with of.access(home_of(context)) as access:
            found = access.people()
        if output_format is Format.JSON:
            write_json([plain(asdict(one)) for one in found])
            return
        print_table(
            ("name", "role", "state", "signs in by", "since"),
            [
                (
                    one.name,
                    one.role,
                    one.state,
                    "provider" if one.elsewhere else "password" if one.has_password else "",
                    one.created_at,
                )
                for one in found
            ],
        )

    @app.command("set-role")
    def set_role(
        context: typer.Context,
        name: NameArgument,
        role: Annotated[str, typer.Option(help=of.roles)],
    ) -> None:
        """Change a person's role, from the next request on."""
        of.check_role(role)
        with of.changing(context, f"{name} becomes {role}") as access:
            access.set_role(name, role)
        say(f"{name} is {role} now")

    @app.command("set-password")
    def set_password(
        context: typer.Context, name: NameArgument, password_file: PasswordOption = None
    ) -> None:
        """Give a person a new password; it ends the person's sessions and forgets failed
        attempts."""
        from privacy.hosting.sessions import Sessions

        password = _password(password_file)
        with of.changing(context, f"new password for {name}") as access:
            access.set_password(name, password)
            Sessions(access).forgive(name)
        say(f"{name} has a new password")

    @app.command("remove")
    def remove_person(context: typer.Context, name: NameArgument) -> None:
        """Remove a person and end the person's sessions. The name stays listed."""
        with of.changing(context, f"remove {name}") as access:
            made = access.remove_person(name)
        say(f"{name} may not sign in any more")
        if made:
            say(
                f"tokens that {name} made stay valid: {', '.join(made)}; revoke them with "
                "token revoke"
            )

    return app


def token_app(of: AccessCommands) -> typer.Typer:
    """`token create|list|revoke`."""
    app = typer.Typer(help="API tokens, for programs.", no_args_is_help=True)

    @app.command("create")
    def create_token(
        context: typer.Context,
        name: NameArgument,
        role: Annotated[str, typer.Option(help=of.roles)],
        days: Annotated[
            int, typer.Option(min=1, max=3650, help="It ends by itself after these.")
        ] = 365,
        output_format: FormatOption = Format.TEXT,
    ) -> None:
        """Make an API token and print it: it is shown this once and stored nowhere."""
        of.check_role(role)
        with of.changing(context, f"create token {name} as {role}") as access:
            token, secret = access.create_token(name, role, created_by=os_user().name, days=days)
        if output_format is Format.JSON:
            write_json(plain(asdict(token)) | {"secret": secret})
            return
        say(f"token {name} for {role}, until {token.expires_at:%F}. It is shown this once:")
        say(secret)

    @app.command("list")
    def list_tokens(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
        """Every API token, without its secret; those that were revoked or have ended included."""
        from privacy.hosting.database import utc_now

        with of.access(home_of(context)) as access:
            found = access.tokens()
        if output_format is Format.JSON:
            write_json([plain(asdict(one)) for one in found])
            return
        now = utc_now()
        print_table(
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

    @app.command("revoke")
    def revoke_token(context: typer.Context, name: NameArgument) -> None:
        """Make an API token useless from the next request on."""
        with of.changing(context, f"revoke token {name}") as access:
            access.revoke_token(name)
        say(f"token {name} opens nothing any more")

    return app


def print_records(found: "Sequence[AccessRecord]", output_format: Format) -> None:
    """Lines of a log of access, as a table or as JSON."""
    if output_format is Format.JSON:
        write_json([plain(asdict(one)) for one in found])
        return
    print_table(
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


def home_of(context: typer.Context) -> Path:
    """The home that --home names."""
    home = context.obj
    assert isinstance(home, Path)
    return home


def os_user() -> "Principal":
    """The operating system's user, marked so that no person of the service has the name."""
    from privacy.hosting.access import Principal

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Principal(f"os:{name}", "admin", "command")


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with its dates as ISO 8601 text."""
    return {
        key: one.isoformat() if isinstance(one, (date, datetime)) else one
        for key, one in value.items()
    }


def print_table(headings: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    """A table on standard output. Names and details came from outside: no character in it is one
    that a terminal obeys."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(one: object) -> Text:
        text = f"{one:%F %T}" if isinstance(one, datetime) else str(one)
        return Text("".join(part if part.isprintable() else "\ufffd" for part in text))

    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(*map(cell, row))
    Console().print(table)


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
