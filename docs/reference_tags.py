"""The page of tags for docs/generate_reference.py: catalogue, facts, reasons, forbidden names."""

from __future__ import annotations

from reference_tables import table

from models.catalogue import EVENTS_1
from models.facts import FACTS
from models.forbidden import categories
from models.reasons import reason_text
from models.tag_catalogue import CHANGEABLE, DIMENSIONS, CatalogueTag, shipped_catalogue

INTRODUCTION = """\
A tag speaks about one customer inside that customer's own party and never leaves it. The shipped
catalogue is below; `fedtags-party tags catalogue` lists a party's own, with its changes. How to
change it: [change the tag catalogue](../how-to/change-the-tag-catalogue.md).

- A **joint** tag comes from a run: its value follows from the score and the plan's public
  thresholds. It is stored with the score, three reasons, and the run, plan and model it comes from.
- A **local** tag comes from a rule over the party's own events (`fedtags-party tags refresh`). It
  costs no budget. Its rule may compare a customer with all of the party's customers.
- A **flag** has the one value `yes`, stored for those to whom it applies.
- A **text** is a word of the party's own data, at most 64 printable characters; a word with a
  [forbidden](#forbidden-names) name is left out.

| state | computed | read |
| --- | --- | --- |
| draft | no | no |
| listed | yes | yes |
| frozen | no | until it expires |
| retired | no | no |

`periodic` tags are due when half of their validity has passed; `event` tags also as soon as the
source reads otherwise than at the last refresh. A node has no feed of events: it sees a change when
`tags refresh --due` runs.
"""


def tags_page() -> str:
    """The whole page in Markdown."""
    catalogue = shipped_catalogue()
    parts = ["# Tags\n", INTRODUCTION]
    for dimension, (english, chinese) in DIMENSIONS.items():
        parts.append(f"## {english} ({chinese})\n")
        rows = [_row(tag) for tag in catalogue.tags if tag.dimension == dimension]
        parts.append(table(("tag", "name", "values", "valid", "what it says", "说明"), rows))
    facts = [
        (f"`{one.name}`", one.unit or "text", one.description, one.absent) for one in FACTS.values()
    ]
    codes = [f"{column.name}{sign}" for column in EVENTS_1 for sign in "+-"]
    reasons = [(f"`{code}`", reason_text(code, "en"), reason_text(code, "zh")) for code in codes]
    parts += [
        "## Keys that a party may change\n",
        f"Of a shipped tag: {', '.join(f'`{key}`' for key in CHANGEABLE)} (`rule` not of a joint "
        "tag or a group). A party's own tag has all keys.\n",
        "## Facts\n",
        "What a rule may name. Days count back from the day of the refresh, which is not read.\n",
        table(("fact", "unit", "what it is", "absent when"), facts),
        "## Reasons\n",
        "A joint tag has up to three: the features that push its score hardest towards its value, "
        "against an ordinary customer. They explain the model; none is a cause.\n",
        table(("code", "in words", "中文"), reasons),
        "## Forbidden names\n",
        "No feature, label, tag or value of a text tag may have a name that says one of: "
        f"{', '.join(categories())}. It is a check of names, in English and Chinese "
        "(`models/forbidden_words.toml`), and cannot see meaning.\n",
    ]
    return "\n".join(parts)


def _row(tag: CatalogueTag) -> tuple[str, ...]:
    values = ", ".join(f"`{value}` {tag.value_zh(value)}" for value in tag.values)
    valid = f"{tag.valid_days} days, {tag.update}" if tag.task is None else "the plan's days"
    kind = f"{tag.value_type}: " if tag.value_type == "flag" else ""
    return (
        f"`{tag.name}`",
        f"{tag.display_name} ({tag.display_name_zh})",
        kind + (values or "the party's own words"),
        valid,
        tag.description,
        tag.description_zh,
    )
