"""Text files made safe to read: what stands in one line can change no other line's row.

One line may be one customer's. A quote that never closes, a stray line end, a byte of another
encoding or a line without end must cost that line only, so each is judged by itself here, before
the CSV reader sees the file. Works in blocks: no file is held in memory.
"""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from party_client.source_settings import TextFormat

LONGEST_LINE = 500_000  # bytes as they stand in the file; any longer one is malformed
_KEPT = 100_000  # characters of a line set aside
_BLOCK = 1 << 18


@dataclass(frozen=True)
class LineFile:
    """A UTF-8 file whose every line is one row by itself, with line ends of one kind.

    quoted: whether any line holds the quote character. set_aside: the lines left out, in
    hexadecimal, one a line; None if there are none. header_lost: the first line that is not blank
    is among them.
    """

    path: Path
    quoted: bool
    set_aside: Path | None
    header_lost: bool


class LineGrammar:
    """RFC 4180's grammar of one line, for the delimiter and quote of a format.

    A field has no quote character, or stands in quotes whole, with those inside it doubled.
    """

    def __init__(self, text: TextFormat) -> None:
        self.quote = "" if text.delimiter == "space" else text.quote
        if self.quote:
            quote, delimiter = re.escape(self.quote), re.escape(text.delimiter)
            inside = f"{quote}(?:[^{quote}\\r\\n]|{quote}{quote})*+{quote}"
            field = f"(?:{inside}|[^{quote}{delimiter}\\r\\n]*+)"
            self._line = re.compile(f"{field}(?:{delimiter}{field})*+")

    def accepts(self, line: str) -> bool:
        """Whether `line`, without its end, is one whole row; the number of fields is left open."""
        if self.quote and self.quote in line:
            return self._line.fullmatch(line) is not None
        return "\n" not in line and "\r" not in line


def line_file(path: Path, text: TextFormat, grammar: LineGrammar, scratch: Path) -> LineFile:
    """`path` itself where all is well with it, else a copy in `scratch` without its bad lines.

    Each line is decoded by itself, by the first encoding that fits. One that fits none keeps its
    readable part; each byte that does not becomes U+FFFD, by which the row is found later.
    """
    if codecs.lookup(text.encodings[0]).name == "utf-8":
        quoted = _quoted_if_good(path, grammar)
        if quoted is not None:
            return LineFile(path, quoted, None, header_lost=False)
    quoted, header_lost, blank, bad = False, False, True, False
    encodings = ("utf-8",) if _is_wide(text.encodings[0]) else text.encodings
    with (
        tempfile.NamedTemporaryFile(dir=scratch, suffix=".csv", delete=False) as good,
        tempfile.NamedTemporaryFile(dir=scratch, suffix=".hex", delete=False) as left_out,
    ):
        for raw in _lines(path, text.encodings[0]):
            line = _decode(raw, encodings)
            if len(raw) <= LONGEST_LINE and grammar.accepts(line):
                good.write(line.encode("utf-8", "replace") + b"\n")
                quoted = quoted or bool(grammar.quote and grammar.quote in line)
            else:
                left_out.write(line[:_KEPT].encode("utf-8", "replace").hex().encode() + b"\n")
                bad = True
                header_lost = header_lost or blank
            blank = blank and not line.strip()
    return LineFile(Path(good.name), quoted, Path(left_out.name) if bad else None, header_lost)


def first_line(path: Path, text: TextFormat) -> str | None:
    """The first line that is not blank, without its end; None where there is none."""
    encodings = ("utf-8",) if _is_wide(text.encodings[0]) else text.encodings
    for raw in _lines(path, text.encodings[0]):
        line = _decode(raw, encodings)
        if line.strip():
            return line
    return None


def _quoted_if_good(path: Path, grammar: LineGrammar) -> bool | None:
    """None if the file must be rewritten, else whether the quote character occurs in it."""
    quoted, ends = False, set()
    with path.open("rb") as file:
        for number, block in enumerate(_blocks(iter(lambda: file.read(_BLOCK), b""))):
            returns, feeds = block.count(b"\r"), block.count(b"\n")
            if returns and not returns == feeds == block.count(b"\r\n"):
                return None
            if feeds:
                ends.add(bool(returns))
            if len(ends) > 1 or (number == 0 and block.startswith(codecs.BOM_UTF8)):
                return None
            if len(block) > LONGEST_LINE and max(map(len, block.splitlines())) > LONGEST_LINE:
                return None
            try:
                decoded = block.decode("utf-8")
            except UnicodeDecodeError:
                return None
            if grammar.quote and grammar.quote in decoded:
                quoted = True
                if not all(grammar.accepts(line) for line in _split(decoded)):
                    return None
    return quoted


def _split(block: str) -> list[str]:
    # Not str.splitlines: it ends lines at characters that stand inside fields, such as U+2028.
    return block.replace("\r\n", "\n").split("\n")


def _lines(path: Path, encoding: str) -> Iterator[bytes]:
    """The file's lines without their ends; UTF-8 where line ends are wide in `encoding`.

    Of a line longer than `LONGEST_LINE`, a beginning that is longer still.
    """
    number = 0
    for block in _blocks(_pieces(path, encoding)):
        for line in block.splitlines():
            yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
            number += 1


def _is_wide(encoding: str) -> bool:
    return "\n".encode(encoding) != b"\n"


def _pieces(path: Path, encoding: str) -> Iterator[bytes]:
    if _is_wide(encoding):
        with path.open(encoding=encoding, errors="replace", newline="") as wide:
            while characters := wide.read(_BLOCK):
                yield characters.encode("utf-8", "replace")
    else:
        with path.open("rb") as file:
            while piece := file.read(_BLOCK):
                yield piece


def _blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    r"""The same bytes in blocks that end where a line ends: at \n, \r\n or \r."""
    carry = b""
    for piece in pieces:
        carry += piece
        # A \r in the last place may be half of \r\n.
        end = max(carry.rfind(b"\n"), carry.rfind(b"\r", 0, len(carry) - 1)) + 1
        if end:
            yield carry[:end]
            carry = carry[end:]
        elif len(carry) > LONGEST_LINE + 2:
            # Too long whatever follows: only that it is, and how it ends, still matters.
            carry = carry[: LONGEST_LINE + 1] + (b"\r" if carry.endswith(b"\r") else b"")
    if carry:
        yield carry


def _decode(line: bytes, encodings: Sequence[str]) -> str:
    for encoding in encodings:
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode(encodings[0], errors="replace")
