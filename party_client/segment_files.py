"""A segment as a file, in pieces: CSV or Parquet, one row a customer, in the order given."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Literal

from party_client.profile_records import TagRecord
from privacy.errors import ConfigError

ExportFormat = Literal["csv", "parquet"]
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
COLUMNS = (
    "customer",
    "tag",
    "value",
    "score",
    "reasons",
    "valid_until",
    "kind",
    "run_id",
    "plan_digest",
    "model_digest",
    "published_at",
    "as_of",
    "consent_receipt",
)
_ROWS = 5000  # a piece


def segment_pieces(records: Iterable[TagRecord], form: str) -> Iterator[bytes]:
    """The file's bytes. The first records are read before this returns, so that what refuses them
    is raised here and not in the middle of an answer.

    Values are written as they are stored: an id that begins with = + - or @ is text, and a
    spreadsheet must import it as text.
    """
    rows = (_row(record) for record in records)
    first = list(islice(rows, _ROWS))
    if form == "csv":
        return _csv(chain(first, rows))
    if form == "parquet":
        return _parquet(chain(first, rows))
    raise ConfigError("format: csv or parquet")


def _row(record: TagRecord) -> dict[str, Any]:
    source = record.provenance
    return {
        "customer": record.customer,
        "tag": record.tag,
        "value": record.value,
        "score": record.score,
        "reasons": ",".join(record.reasons),
        "valid_until": record.valid_until.isoformat(),
        "kind": source.kind,
        "run_id": source.run_id,
        "plan_digest": source.plan_digest,
        "model_digest": source.model_digest,
        "published_at": source.published_at.isoformat(),
        "as_of": source.as_of.isoformat(),
        "consent_receipt": source.consent_receipt,
    }


def _csv(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    while piece := list(islice(rows, _ROWS)):
        writer.writerows(piece)
        yield _taken(text).encode()
    rest = _taken(text)
    if rest:
        yield rest.encode()


def _taken(text: io.StringIO) -> str:
    written = text.getvalue()
    text.seek(0)
    text.truncate()
    return written


def _parquet(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    import pyarrow
    from pyarrow import parquet

    types = {"score": pyarrow.float64()}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in COLUMNS])
    sink = _Sink()
    with parquet.ParquetWriter(sink, schema) as writer:
        while piece := list(islice(rows, _ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(piece, schema=schema))
            yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """A file that is only written, from beginning to end, and handed on in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def taken(self) -> bytes:
        """What was written since the last call."""
        written = b"".join(self._pieces)
        self._pieces.clear()
        return written
