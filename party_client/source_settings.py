"""The [source] part of party.toml: where a party's records are and what its columns are called."""

from __future__ import annotations

import re
import zoneinfo
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from privacy.hosting.credentials import SecretReference

_DIRECTIVE = re.compile("%-?[A-Za-z%]")
_UTC_WORD = re.compile("(Z|UTC|GMT)$")
_OFFSET = re.compile(r"[+-][0-9]{2}(:?[0-9]{2})?$")

DATABASES = ("postgresql+psycopg", "mysql+pymysql", "mariadb+pymysql", "duckdb", "sqlite")
REQUIRED_EVENT_COLUMNS = ("customer", "time", "amount")
OPTIONAL_EVENT_COLUMNS = ("quantity", "type", "category", "channel")


def names_zone(date_format: str) -> bool:
    """Whether a strptime format reads a zone (%z or %Z): its times are then what they say."""
    return re.search(r"(?<!%)(%%)*%-?[zZ]", date_format) is not None


def _clear_format(date_format: str) -> str:
    if _OFFSET.search(date_format):
        raise ValueError("an offset from UTC is read with %z, never written into the format")
    return date_format


DateFormat = Annotated[str, AfterValidator(_clear_format)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextFormat(_Section):
    """How text files are written; Parquet ignores it.

    `encoding` may be a list: each line is read by the first one that fits it, because exports
    that were joined by hand mix encodings. `delimiter = "space"` means runs of blanks. Without a
    header, columns are called "#1", "#2" and so on up to `fields`: taken from the first line, their
    number would let one customer's row decide whether the others are read.
    """

    encoding: str | tuple[str, ...] = "utf-8"
    delimiter: Annotated[str, Field(min_length=1, max_length=5)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'
    has_header: bool = True
    fields: Annotated[int, Field(ge=1, le=1000)] | None = None

    @property
    def encodings(self) -> tuple[str, ...]:
        """The encodings to try, in order."""
        return (self.encoding,) if isinstance(self.encoding, str) else self.encoding

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if not names:
            raise ValueError("at least one encoding is needed")
        for name in names:
            try:
                newline = "\n".encode(name)
            except (LookupError, UnicodeError) as error:
                raise ValueError(
                    "not an encoding that Python knows, such as utf-8 or gbk"
                ) from error
            if len(names) > 1 and newline != b"\n":
                raise ValueError(
                    "an encoding with wide line ends, such as utf-16, must stand alone"
                )
        return value

    @field_validator("delimiter")
    @classmethod
    def _known_delimiter(cls, value: str) -> str:
        if value != "space" and len(value) != 1:
            raise ValueError("one character, or 'space' for runs of blanks")
        return value

    @model_validator(mode="after")
    def _fields_known(self) -> Self:
        if self.has_header == (self.fields is not None):
            raise ValueError(
                "fields: without a header, say how many fields a line has; with one, leave it out"
            )
        return self


class DatabaseFormat(TextFormat):
    """Records that lie in files (the keys of `TextFormat` say how) or in a database.

    A database has `url` and a `table` or a `query`, any SELECT. A password never stands in the
    settings: `password` says where it is (`privacy.hosting.credentials`).
    """

    url: str | None = None
    password: SecretReference | None = None
    table: Annotated[str, Field(min_length=1, max_length=300)] | None = None
    query: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None

    @field_validator("url")
    @classmethod
    def _known_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = make_url(value)
        except ArgumentError:
            # From None, and without the value: it may hold a password.
            raise ValueError(
                "not a database url; write one like postgresql+psycopg://user@host/name"
            ) from None
        if url.password is not None or any("pass" in key.lower() for key in url.query):
            raise ValueError(
                "a password never stands in the url: put it into a file, the environment or a "
                'keyring, and say where with password = "file:keys/source.password", "env:NAME" '
                'or "keyring:SERVICE/USER"'
            )
        if url.drivername not in DATABASES:
            raise ValueError(f"begins with one of {', '.join(DATABASES)}")
        if not url.database:
            raise ValueError("names no database: add /NAME, or /FILE for duckdb and sqlite")
        return value

    @property
    def from_database(self) -> bool:
        """Whether the records are read by a table's name or by a query."""
        return self.table is not None or self.query is not None

    def _require_one_place(self, *, path: bool, url: bool) -> None:
        """Raise ValueError unless the records lie in exactly one place."""
        if [path, self.table is not None, self.query is not None].count(True) != 1:
            raise ValueError("exactly one of path, table and query says where the records are")
        if path:
            if self.url is not None or self.password is not None:
                raise ValueError("path: files have no url and no password")
            return
        if not url:
            raise ValueError("table and query need the url of a database")
        if self.password is not None and self.url is None:
            raise ValueError("password: give it together with url")
        texts = set(TextFormat.model_fields) | {"decimal"}
        if extra := sorted(texts & self.model_fields_set):
            raise ValueError(f"{', '.join(extra)}: for text files only; remove it for a database")


class ConsentSettings(DatabaseFormat):
    """Who consented, to which purpose, from when until when; see `party_client.consent`.

    A customer who is not named has not. `url` may be left out: it is then the source's own.
    """

    path: str | None = None
    customer: str
    granted: str | None = None
    purpose: str | None = None
    granted_at: str | None = None
    expires_at: str | None = None
    withdrawn_at: str | None = None
    date_format: DateFormat = ""
    time_zone: str = "UTC"

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError("a zone of the IANA data base, such as Asia/Shanghai") from error
        return value

    @model_validator(mode="after")
    def _decides(self) -> Self:
        if self.granted is None and self.granted_at is None and self.withdrawn_at is None:
            raise ValueError(
                "granted, granted_at or withdrawn_at: at least one must be mapped to a column, "
                "or nothing in the table says yes"
            )
        if self.time_zone != "UTC" and _UTC_WORD.search(_DIRECTIVE.sub("", self.date_format)):
            raise ValueError(
                "time_zone: date_format ends with a word for UTC; leave time_zone out, or read "
                "the zone with %Z"
            )
        return self


class SourceFile(_Section):
    """One file (or glob) of which only the days in [since, before) are read.

    For exports that overlap: rows outside are counted as `outside_file_dates`.
    """

    path: str
    since: date | None = None
    before: date | None = None


class SourceSettings(DatabaseFormat):
    """A party's event log or feature table, and the mapping of its own column names.

    Every value is the operator's own and public to this party; no default is learned from data.
    """

    kind: Literal["events", "table"] = "events"
    path: str | tuple[str | SourceFile, ...] | None = None
    customer_ids: Literal["opaque", "phone", "email"] = "opaque"
    region: str | None = None
    currency_rate: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    decimal: Literal[".", ","] = "."
    date_format: DateFormat = ""
    duplicates: Literal["reject", "keep"] = "reject"
    return_types: tuple[str, ...] = ("return", "refund")
    columns: dict[str, str]
    consent: ConsentSettings | None = None
    memory_limit: Annotated[str, Field(pattern=r"^[1-9][0-9]*(MB|GB)$")] = "1GB"
    threads: Annotated[int, Field(ge=1, le=256)] = 2

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files to read, in order; none where a database is read."""
        listed = (self.path,) if isinstance(self.path, str) else self.path or ()
        return tuple(SourceFile(path=item) if isinstance(item, str) else item for item in listed)

    @field_validator("region")
    @classmethod
    def _known_region(cls, value: str | None) -> str | None:
        from phonenumbers import SUPPORTED_REGIONS  # slow to import, and seldom needed

        if value is not None and value not in SUPPORTED_REGIONS:
            raise ValueError("two capital letters of a country, such as CN")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._require_one_place(path=self.path is not None, url=self.url is not None)
        if self.path is not None and not (self.files and all(item.path for item in self.files)):
            raise ValueError("path: at least one file is needed")
        if self.consent is not None:
            self.consent._require_one_place(
                path=self.consent.path is not None, url=bool(self.consent.url or self.url)
            )
        if self.region is not None and self.customer_ids != "phone":
            raise ValueError('region: for customer_ids = "phone" only')
        if self.delimiter == self.decimal:
            raise ValueError("delimiter and decimal must differ")
        required = REQUIRED_EVENT_COLUMNS if self.kind == "events" else ("customer",)
        missing = [name for name in required if not self.columns.get(name)]
        if missing:
            raise ValueError(f"columns: {', '.join(missing)} must be mapped to a column of yours")
        if self.kind == "events":
            known = REQUIRED_EVENT_COLUMNS + OPTIONAL_EVENT_COLUMNS
            unknown = sorted(set(self.columns) - set(known))
            if unknown:
                raise ValueError(
                    f"columns: an event log has no {', '.join(unknown)}; choose from "
                    f"{', '.join(known)}"
                )
        elif any(item.since or item.before for item in self.files):
            raise ValueError("path: since and before are for event logs only")
        return self
