"""A stored tag in words: names, values and reasons from the catalogue, in both languages."""

from __future__ import annotations

from functools import lru_cache

from models.tag_catalogue import Catalogue
from party_client.desk_views import HistoryView, ReasonView, TagView
from party_client.profile_records import TagRecord


def tag_view(record: TagRecord, catalogue: Catalogue) -> TagView:
    """One tag of one customer with where it comes from."""
    tag, source = catalogue[record.tag], record.provenance
    return TagView(
        tag=tag.name,
        display_name=tag.display_name,
        display_name_zh=tag.display_name_zh,
        dimension=tag.dimension,
        value=record.value,
        value_zh=tag.value_zh(record.value),
        score=record.score,
        reasons=tuple(_reason(code) for code in record.reasons),
        kind=source.kind,
        valid_until=record.valid_until,
        published_at=source.published_at,
        as_of=source.as_of,
        run_id=source.run_id,
        model_digest=source.model_digest,
        parties=source.parties,
        epsilon=source.epsilon,
        delta=source.delta,
        receipt=source.consent_receipt,
    )


def history_view(record: TagRecord, catalogue: Catalogue) -> HistoryView:
    """An earlier value of a tag."""
    tag = catalogue[record.tag]
    return HistoryView(
        tag=tag.name,
        display_name=tag.display_name,
        display_name_zh=tag.display_name_zh,
        value=record.value,
        value_zh=tag.value_zh(record.value),
        valid_until=record.valid_until,
        published_at=record.provenance.published_at,
        run_id=record.provenance.run_id,
        replaced_by=record.replaced_by,
    )


@lru_cache(maxsize=1000)
def _reason(code: str) -> ReasonView:
    from models.reasons import reason_text

    return ReasonView(code, reason_text(code, "en"), reason_text(code, "zh"))
