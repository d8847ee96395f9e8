"""The tag catalogue: what a tag is called, what it may hold, who owns it, how long it is valid.

The shipped catalogue is models/tags_catalogue/*.toml, a file a dimension. A party's own
catalogue.toml changes a shipped tag (state, owner, purposes, weight, validity, thresholds) or adds
tags of its own; it never reaches another party. The joint tags' values and rules are what both
sides of a plan rely on, so no party changes those.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.features import Name
from models.forbidden import forbidden
from models.plan import describe_validation_error
from models.tag_rules import Bands, Cases, Quantiles, Rule
from privacy.errors import ConfigError

Dimension = Literal["attribute", "behaviour", "preference", "value", "prediction"]
DIMENSIONS: Mapping[Dimension, tuple[str, str]] = MappingProxyType(
    {
        "attribute": ("Basic attributes", "基础属性"),
        "behaviour": ("Behaviour", "行为特征"),
        "preference": ("Preference and need", "偏好与需求"),
        "value": ("Value", "客户价值"),
        "prediction": ("Life cycle and prediction", "生命周期与预测"),
    }
)
State = Literal["draft", "listed", "frozen", "retired"]
ValueType = Literal["enum", "flag", "band", "text", "group"]
Purpose = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Words = Annotated[str, Field(min_length=1, max_length=600)]
FOLDER = Path(__file__).with_name("tags_catalogue")
MAX_TEXT = 64
MAX_BYTES = 1024 * 1024
YES = "yes"
CHANGEABLE = ("state", "owner", "purposes", "weight", "valid_days", "update", "parent", "rule")
_VALUE_TYPES: Mapping[str, tuple[ValueType, ...]] = {
    "bands": ("band",),
    "quantiles": ("band",),
    "cases": ("enum", "flag"),
    "text": ("enum", "text"),
    "joint": ("enum",),
    "group": ("group",),
}


class CatalogueTag(BaseModel):
    """One entry of the catalogue.

    values: what a stored value may be; of a `band` in the order of a rising fact or score, of a
    `flag` only "yes" (it is stored for those to whom it applies), of a `text` none: any printable
    text of at most 64 characters. values_zh: the same in Chinese, in the same order. weight: what
    the party gives it where tags are summed or sorted; nothing here computes with it. valid_days:
    how long a value may be read after it was computed (a joint tag's plan says its own). update:
    `periodic`, or `event` for what is computed again as soon as the source has changed. state:
    draft (neither computed nor read), listed (both), frozen (read until it expires, not computed),
    retired (neither). A `group` has no value: other entries name it as their parent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    display_name: Annotated[str, Field(min_length=1, max_length=80)]
    display_name_zh: Annotated[str, Field(min_length=1, max_length=40)]
    dimension: Dimension
    parent: Name | None = None
    weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    owner: Annotated[str, Field(min_length=1, max_length=80)]
    value_type: ValueType
    values: tuple[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)], ...] = ()
    values_zh: tuple[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)], ...] = ()
    valid_days: Annotated[int, Field(ge=1, le=3650)] = 30
    update: Literal["periodic", "event"] = "periodic"
    purposes: tuple[Purpose, ...] = ()
    state: State = "listed"
    description: Words
    description_zh: Words
    rule: Rule

    @property
    def computed(self) -> bool:
        """Whether this party's node computes it from its own events now."""
        return self.state == "listed" and self.rule.kind not in ("joint", "group")

    @property
    def readable(self) -> bool:
        """Whether stored values may be read now."""
        return self.state in ("listed", "frozen") and self.value_type != "group"

    @property
    def task(self) -> str | None:
        """The kind of task that makes a joint tag; None for any other."""
        return self.rule.task if self.rule.kind == "joint" else None

    def accepts(self, value: str) -> bool:
        """Whether `value` may be stored."""
        if self.value_type == "text":
            return 0 < len(value) <= MAX_TEXT and value.isprintable() and value == value.strip()
        return value in self.values

    def value_zh(self, value: str) -> str:
        """The Chinese words for `value`; a text is its own."""
        known = dict(zip(self.values, self.values_zh, strict=True))
        return known.get(value, value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.value_type not in _VALUE_TYPES[self.rule.kind]:
            wanted = " or ".join(_VALUE_TYPES[self.rule.kind])
            raise ValueError(f"value_type: a rule of kind {self.rule.kind} makes {wanted}")
        if len(set(self.values)) != len(self.values):
            raise ValueError("values: every value once")
        if len(self.values) != len(self.values_zh):
            raise ValueError("values_zh: as many as values, in the same order")
        if (not self.values) != (self.value_type in ("text", "group")):
            raise ValueError("values: needed, except for value_type text and group")
        if self.value_type == "flag" and self.values != (YES,):
            raise ValueError(f"values: a flag has the one value {YES}")
        if (not self.purposes) != (self.value_type == "group"):
            raise ValueError("purposes: at least one is needed, except for a group, which has none")
        if len(set(self.purposes)) != len(self.purposes):
            raise ValueError("purposes: every purpose once")
        for place in (self.name, self.display_name, self.display_name_zh, *self.values):
            category = forbidden(place)
            if category is not None:
                raise ValueError(f"the name says {category}, which no tag may hold")
        _check_values(self.rule, self.values)
        return self


def _check_values(rule: Rule, values: tuple[str, ...]) -> None:
    if isinstance(rule, Bands | Quantiles):
        cuts = rule.edges if isinstance(rule, Bands) else rule.shares
        if len(values) != len(cuts) + 1:
            raise ValueError(f"values: {len(cuts)} cuts make {len(cuts) + 1} values")
    if isinstance(rule, Cases):
        made = {case.value for case in rule.cases} | ({rule.otherwise} - {None})
        if made != set(values):
            raise ValueError("rule.cases: the cases and otherwise must make exactly the values")


@dataclass(frozen=True)
class Catalogue(Mapping[str, CatalogueTag]):
    """All entries by name, groups too, in the order of dimensions and files.

    Invariant: every parent is an entry, and following parents ends.
    """

    entries: Mapping[str, CatalogueTag]

    def __post_init__(self) -> None:
        for tag in self.entries.values():
            self.path(tag.name)

    def __getitem__(self, name: str) -> CatalogueTag:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def tags(self) -> tuple[CatalogueTag, ...]:
        """All entries that have a value."""
        return tuple(tag for tag in self.entries.values() if tag.value_type != "group")

    def tag(self, name: str) -> CatalogueTag:
        """The tag of that name. Raises ConfigError where there is none, or it is a group."""
        found = self.entries.get(name)
        if found is None or found.value_type == "group":
            raise ConfigError(
                "no such tag in the catalogue: `fedtags-party tags catalogue` lists them"
            )
        return found

    def path(self, name: str) -> tuple[CatalogueTag, ...]:
        """The entry and all above it, from itself to the top.

        Raises ConfigError for a parent that is no entry, and names the members of a cycle.
        """
        seen: list[str] = []
        at: str | None = name
        while at is not None:
            if at in seen:
                cycle = " -> ".join([*seen[seen.index(at) :], at])
                raise ConfigError(f"tag catalogue: parent: these stand under each other: {cycle}")
            if at not in self.entries:
                raise ConfigError(f"tag catalogue: tag {seen[-1]}: parent: there is no entry {at}")
            seen.append(at)
            at = self.entries[at].parent
        return tuple(self.entries[one] for one in seen)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of every entry in canonical JSON: names this catalogue in a provenance."""
        plain = {name: tag.model_dump(mode="json") for name, tag in self.entries.items()}
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_catalogue(overlay: Path | None = None) -> Catalogue:
    """The shipped catalogue with a party's changes; a file that does not exist changes nothing.

    Raises ConfigError naming tag and key: a key that is not known or may not be changed, a value
    outside its bounds, a forbidden name, a parent that is missing, a cycle.
    """
    shipped = shipped_catalogue()
    if overlay is None or not overlay.exists():
        return shipped
    entries = dict(shipped.entries)
    for name, table in _read(overlay).items():
        if name in shipped:
            entries[name] = _changed(shipped[name], table, overlay.name)
        else:
            entries[name] = _entry(name, table, overlay.name)
    return Catalogue(MappingProxyType(entries))


@lru_cache(maxsize=1)
def shipped_catalogue() -> Catalogue:
    """The catalogue as it is shipped, the same at every party of one version of fedtags."""
    entries: dict[str, CatalogueTag] = {}
    for dimension in DIMENSIONS:
        path = FOLDER / f"{dimension}.toml"
        for name, table in _read(path).items():
            if name in entries:
                raise ConfigError(f"{path.name}: tag {name}: an entry has this name already")
            entries[name] = _entry(name, {"dimension": dimension, **table}, path.name)
    return Catalogue(MappingProxyType(entries))


def _read(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The [tags.NAME] tables of a file, in its order."""
    try:
        source = path.read_bytes()
        if len(source) > MAX_BYTES:
            raise ConfigError(f"{path.name}: a catalogue is at most {MAX_BYTES} bytes")
        raw = tomllib.loads(source.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"tag catalogue {path} cannot be read as TOML: {error}") from error
    if raw.pop("format", None) != 1:
        raise ConfigError(f"{path.name}: format: 1 is the one that is known")
    tags = raw.pop("tags", {})
    if raw:
        raise ConfigError(f"{path.name}: {min(raw)}: unknown key; tags stand in [tags.NAME]")
    for name, table in tags.items() if isinstance(tags, dict) else [("", tags)]:
        if not isinstance(table, dict):
            raise ConfigError(f"{path.name}: tags.{name}: a table [tags.NAME] is needed")
    found: Mapping[str, Mapping[str, Any]] = tags
    return found


def _entry(name: str, table: Mapping[str, Any], file: str) -> CatalogueTag:
    if "name" in table:
        raise ConfigError(f"{file}: tag {name}: name: the table's own name says it; remove it")
    try:
        return CatalogueTag.model_validate({**table, "name": name})
    except ValidationError as error:
        raise ConfigError(describe_validation_error(f"tag {name} of {file}", error)) from error


def _changed(tag: CatalogueTag, table: Mapping[str, Any], file: str) -> CatalogueTag:
    fixed = sorted(set(table) - set(CHANGEABLE))
    if tag.rule.kind in ("joint", "group") and "rule" in table:
        fixed.append("rule")
    if fixed:
        raise ConfigError(
            f"{file}: tag {tag.name}: {fixed[0]}: fixed for a shipped tag, or not a key; a party "
            f"may change {', '.join(CHANGEABLE)}, and give a tag of another name to all else"
        )
    before = tag.model_dump(exclude={"name"}, exclude_unset=True)
    rule = table.get("rule", {})
    if not isinstance(rule, dict):
        raise ConfigError(f"{file}: tag {tag.name}: rule: a table is needed")
    kept = {} if "kind" in rule else before["rule"]
    return _entry(tag.name, {**before, **table, "rule": {**kept, **rule}}, file)
