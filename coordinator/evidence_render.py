"""An evidence report as HTML and as PDF, both complete in themselves: no outside resource, and the
PDF with its own font, which has the common Chinese characters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import as_file, files

from fpdf import FPDF
from fpdf.enums import WrapMode, XPos, YPos
from fpdf.fonts import FontFace, TTFFont
from jinja2 import Environment, StrictUndefined

from coordinator.evidence_report import Block, texts

FONT = "report"
_SIZES = {"title": 16.0, "heading": 12.0, "text": 9.0, "list": 9.0, "table": 7.5}
_LINE = 1.45  # of the font's size


def as_html(blocks: Sequence[Block], language: str) -> bytes:
    """One HTML page."""
    source = (files("coordinator") / "evidence_texts" / "report.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    return template.render(blocks=blocks, language=language).encode() + b"\n"


def as_pdf(blocks: Sequence[Block], language: str, made_at: datetime) -> bytes:
    """One PDF. The same blocks at the same time give the same bytes."""
    with as_file(files("coordinator") / "evidence_fonts" / "report.ttf") as font:
        return _Pages(blocks, language, made_at, str(font)).bytes()


class _Pages(FPDF):
    """A PDF in the making: A4, page numbers, one font."""

    def __init__(
        self, blocks: Sequence[Block], language: str, made_at: datetime, font: str
    ) -> None:
        super().__init__(format="A4")
        self._words = texts(language)
        # Chinese has no spaces to break a line at.
        self._wrap = WrapMode.CHAR if language == "zh" else WrapMode.WORD
        self.set_creation_date(made_at)
        self.set_title(blocks[0].text)
        self.set_lang(language)
        self.set_producer("fedtags")
        self.set_margin(18)
        self.set_auto_page_break(True, margin=18)
        self.add_font(FONT, fname=font)
        added = self.fonts[FONT]
        assert isinstance(added, TTFFont)
        self._known = frozenset(added.cmap)
        self.set_font(FONT, size=_SIZES["text"])
        self.add_page()
        for block in blocks:
            self._draw(block)

    def footer(self) -> None:
        """The page's number."""
        self.set_y(-12)
        self.set_font(FONT, size=_SIZES["table"])
        text = self._words["page"].format(page=self.page_no())
        self.cell(0, 5, self._printed(text), align="R")

    def bytes(self) -> bytes:
        """The finished file."""
        return bytes(self.output())

    def _draw(self, block: Block) -> None:
        size = _SIZES[block.kind]
        self.set_font(FONT, size=size)
        if block.kind == "table":
            self._table(block)
        elif block.kind == "list":
            for row in block.rows:
                self._paragraph(f"•  {row[0]}", size, indent=4)
        else:
            if block.kind == "heading":
                self.ln(3)
            self._paragraph(block.text, size)
        self.ln(1.5)

    def _paragraph(self, text: str, size: float, indent: float = 0) -> None:
        self.set_x(self.l_margin + indent)
        self.multi_cell(
            0,
            _height(size),
            self._printed(text),
            align="L",
            wrapmode=self._wrap,
            new_x=XPos.LMARGIN,
            new_y=YPos.NEXT,
        )

    def _table(self, block: Block) -> None:
        if not block.rows:
            return
        with self.table(
            col_widths=block.widths,
            first_row_as_headings=bool(block.header),
            headings_style=FontFace(family=FONT, emphasis="", fill_color=(232, 232, 232)),
            line_height=_height(_SIZES["table"]),
            text_align="LEFT",
            wrapmode=self._wrap,
            padding=0.6,
        ) as table:
            for cells in (*([block.header] if block.header else []), *block.rows):
                row = table.row()
                for cell in cells:
                    row.cell(self._printed(cell))

    def _printed(self, text: str) -> str:
        """`text` in characters that the font has; another one is named by its number."""
        text = text.replace("N\u0302", "N^")
        return "".join(one if ord(one) in self._known else f"[U+{ord(one):04X}]" for one in text)


def _height(size: float) -> float:
    """The height of a line in millimetres; `size` is in points."""
    return size * _LINE * 25.4 / 72
