"""The software bill of materials (CycloneDX): fedtags here, and all that it needs."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = "fedtags"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
# Some packages put the whole text of their licence into the second.
_LICENSE_FIELDS = ("License-Expression", "License")
_LONGEST_LICENSE = 100


def software() -> dict[str, str]:
    """Names and versions of fedtags and of all installed distributions that it needs."""
    return {name: found.version for name, found in sorted(_installed().items())}


def bill_of_materials(federation: str, run: str, made_at: datetime) -> bytes:
    """CycloneDX 1.6 as JSON, for the pack of one run. The same software gives the same bytes but
    for the run and the time."""
    found = _installed()
    components = {name: _component(name, one) for name, one in sorted(found.items())}
    root = components.pop(ROOT)
    bom = Bom(
        components=components.values(),
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"fedtags:{federation}:{run}"),
        metadata=BomMetaData(component=root, timestamp=made_at),
    )
    for name, one in found.items():
        owner = root if name == ROOT else components[name]
        needed = [components[other] for other in sorted(_needs(one)) if other in components]
        bom.register_dependency(owner, needed)
    return JsonV1Dot6(bom).output_as_string(indent=1).encode() + b"\n"


def _installed() -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform or Python
        waiting += _needs(found[name])
    return found


def _needs(one: Distribution) -> set[str]:
    """Normalised names of what a distribution requires, its extras left out."""
    names = set()
    for text in one.requires or ():
        requirement, _, marker = text.partition(";")
        match = _NAME.match(requirement)
        if match is not None and "extra" not in marker:
            names.add(re.sub(r"[-_.]+", "-", match.group()).lower())
    return names


def _component(name: str, one: Distribution) -> Component:
    told = [one.metadata[field] for field in _LICENSE_FIELDS if field in one.metadata]
    license_ = next((text for text in told if 0 < len(text) <= _LONGEST_LICENSE), "")
    return Component(
        name=name,
        version=one.version,
        type=ComponentType.APPLICATION if name == ROOT else ComponentType.LIBRARY,
        bom_ref=f"{name}=={one.version}",
        purl=PackageURL("pypi", name=name, version=one.version),
        licenses=[DisjunctiveLicense(name=license_)] if license_ else None,
    )
