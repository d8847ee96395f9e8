"""Segments with their counts and files, and the tag catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from starlette.responses import Response, StreamingResponse

from models.tag_catalogue import DIMENSIONS, CatalogueTag
from party_client.console.site import Visit
from party_client.desk_views import SMALLEST_CELL

_FORMS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_FIRST = "prediction"


def segments(visit: Visit) -> Response:
    """Customers by tag and value, one dimension of the catalogue at a time."""
    asked, words = visit.request.query_params, visit.words
    purposes = visit.desk.purposes(visit.who)
    purpose = asked.get("purpose", "")
    purpose = purpose if purpose in purposes else purposes[0]
    dimension = asked.get("dimension", "")
    dimension = dimension if dimension in DIMENSIONS else _FIRST
    found = [one for one in visit.desk.segments(visit.who, purpose) if one.dimension == dimension]
    return visit.show(
        "segments.html",
        section="/segments",
        tags=[list(rows) for _, rows in groupby(found, lambda one: one.tag)],
        purpose=purpose,
        purposes=[(one, words.say(one)) for one in purposes],
        dimension=dimension,
        dimensions=[(one, words.dimension(one)) for one in DIMENSIONS],
        smallest=SMALLEST_CELL,
    )


def export(visit: Visit) -> Response:
    """The file of one segment. The desk refuses before the first byte."""
    asked = visit.request.query_params
    tag, form = asked.get("tag", ""), asked.get("form", "csv")
    pieces = visit.desk.export_segment(
        visit.who, tag, asked.get("value"), asked.get("purpose", ""), form
    )
    # The desk knows the tag and the form, so neither can hold anything but a plain name.
    headers = {"Content-Disposition": f'attachment; filename="{tag}.{form}"'}
    return StreamingResponse(pieces, media_type=_FORMS[form], headers=headers)


def catalogue(visit: Visit) -> Response:
    """Every tag by dimension, each below its parent."""
    entries = visit.desk.catalogue(visit.who)
    groups = []
    for dimension in DIMENSIONS:
        own = [one for one in entries if one.dimension == dimension]
        if own:
            groups.append((dimension, list(_tree(own, None, 0, {one.name for one in own}))))
    return visit.show("catalogue.html", section="/catalogue", groups=groups)


def _tree(
    entries: list[CatalogueTag], parent: str | None, depth: int, known: set[str]
) -> Iterable[tuple[int, CatalogueTag]]:
    """Depth first; the catalogue has no cycle. A parent of another dimension counts as none."""
    for one in entries:
        if (one.parent if one.parent in known else None) == parent:
            yield depth, one
            yield from _tree(entries, one.name, depth + 1, known)
