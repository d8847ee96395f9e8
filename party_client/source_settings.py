"""The [source] part of party.toml: where a party's records are and what its columns are called."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

REQUIRED_EVENT_COLUMNS = ("customer", "time", "amount")
OPTIONAL_EVENT_COLUMNS = ("quantity", "type", "category", "channel")


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


class ConsentSettings(TextFormat):
    """Who consented. A customer whom the file does not name has not; any 'no' outweighs a 'yes'."""

    path: str
    customer: str
    granted: str


class SourceFile(_Section):
    """One file (or glob) of which only the days in [since, before) are read.

    For exports that overlap: rows outside are counted as `outside_file_dates`.
    """

    path: str
    since: date | None = None
    before: date | None = None


class SourceSettings(TextFormat):
    """A party's event log or feature table, and the mapping of its own column names.

    Every value is the operator's own and public to this party; no default is learned from data.
    """

    kind: Literal["events", "table"] = "events"
    path: str | tuple[str | SourceFile, ...]
    currency_rate: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    decimal: Literal[".", ","] = "."
    date_format: str = ""
    duplicates: Literal["reject", "keep"] = "reject"
    return_types: tuple[str, ...] = ("return", "refund")
    columns: dict[str, str]
    consent: ConsentSettings | None = None
    memory_limit: Annotated[str, Field(pattern=r"^[1-9][0-9]*(MB|GB)$")] = "1GB"
    threads: Annotated[int, Field(ge=1, le=256)] = 2

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files to read, in order."""
        listed = (self.path,) if isinstance(self.path, str) else self.path
        return tuple(SourceFile(path=item) if isinstance(item, str) else item for item in listed)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.files or not all(item.path for item in self.files):
            raise ValueError("path: at least one file is needed")
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
