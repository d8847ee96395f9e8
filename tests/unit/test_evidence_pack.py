"""The container of an evidence pack, its keys, and which part any change is found in."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ConfigError, EvidenceError, FedtagsError, SignatureError
from privacy.evidence import (
    CERTIFICATE,
    CONTENT,
    MANIFEST,
    PARTS,
    SIGNATURE,
    Certificate,
    KeyFile,
    canonical_json,
    open_pack,
    read_canonical,
    seal_pack,
)
from privacy.evidence_archive import ARCHIVE, MAX_BYTES, check_form, pack, unpack
from privacy.identity import SigningKey

AT = datetime(2026, 3, 1, tzinfo=UTC)
COORDINATOR, EVIDENCE, PARTY = (SigningKey.generate() for _ in range(3))
CERTIFIED = Certificate.issue(COORDINATOR, "market", EVIDENCE.public, AT)
KEYS = KeyFile(
    "market",
    COORDINATOR.public,
    (("bank", PARTY.public),),
    (("science", PARTY.public),),
    (EVIDENCE.public,),
)
CONTENTS = {name: f"what is in {name}".encode() for name in CONTENT}
PACK = seal_pack(CONTENTS, EVIDENCE, CERTIFIED, "run-1", AT)


def test_a_pack_opens_to_what_was_sealed() -> None:
    opened = open_pack(PACK, KEYS)
    assert opened.parts == CONTENTS
    assert (opened.federation, opened.run) == ("market", "run-1")
    assert opened.evidence_key == EVIDENCE.public


def test_the_same_parts_are_the_same_bytes() -> None:
    assert seal_pack(dict(reversed(CONTENTS.items())), EVIDENCE, CERTIFIED, "run-1", AT) == PACK


def test_any_unzip_program_opens_it() -> None:
    with zipfile.ZipFile(io.BytesIO(PACK)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(PARTS)


def test_every_flipped_byte_is_found_in_the_part_that_it_lies_in() -> None:
    parts = unpack(PACK)
    owner = [ARCHIVE] * len(PACK)
    for name, data in parts.items():
        start = PACK.index(data)
        owner[start : start + len(data)] = [name] * len(data)
    for position, part in enumerate(owner):
        changed = bytearray(PACK)
        changed[position] ^= 0x21
        with pytest.raises(EvidenceError) as caught:
            open_pack(bytes(changed), KEYS)
        assert caught.value.part == part, position


@given(st.binary(max_size=400))
def test_bytes_that_are_no_pack_meet_a_named_error(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        open_pack(data, KEYS)


@given(st.integers(0, len(PACK)), st.integers(0, len(PACK)), st.binary(max_size=20))
def test_pieces_of_a_pack_meet_a_named_error(start: int, end: int, more: bytes) -> None:
    changed = PACK[:start] + more + PACK[end:]
    if changed != PACK:
        with pytest.raises(EvidenceError):
            open_pack(changed, KEYS)


def test_a_compressed_archive_of_the_same_parts_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in unpack(PACK).items():
            archive.writestr(name, data)
    with pytest.raises(EvidenceError, match="archive"):
        open_pack(buffer.getvalue(), KEYS)


def test_parts_in_another_order_or_one_more_are_refused() -> None:
    parts = unpack(PACK)
    for changed in (dict(reversed(parts.items())), {**parts, "more.txt": b""}):
        with pytest.raises(EvidenceError, match="exactly the parts"):
            open_pack(pack(changed), KEYS)


@pytest.mark.parametrize("name", ["../up", "UP", "", "a/b", "x" * 65, "é"])
def test_a_part_has_a_plain_name(name: str) -> None:
    with pytest.raises(EvidenceError):
        pack({name: b""})


def test_a_pack_has_a_greatest_length() -> None:
    with pytest.raises(EvidenceError, match="at most"):
        unpack(bytes(MAX_BYTES + 1))
    with pytest.raises(EvidenceError, match="at most"):
        pack({"a": bytes(MAX_BYTES)})


def test_the_form_is_checked_byte_for_byte() -> None:
    parts = {"a": b"1", "b": b""}
    check_form(pack(parts), parts)
    with pytest.raises(EvidenceError):
        check_form(pack(parts) + b" ", parts)


def test_a_certificate_is_for_one_federation_and_of_one_coordinator() -> None:
    CERTIFIED.check("market", COORDINATOR.public)
    assert Certificate.read(CERTIFIED.to_json()) == CERTIFIED
    with pytest.raises(SignatureError, match="federation market"):
        CERTIFIED.check("other", COORDINATOR.public)
    with pytest.raises(SignatureError):
        CERTIFIED.check("market", PARTY.public)
    for changed in (
        replace(CERTIFIED, made_at="2027-01-01T00:00:00+00:00"),
        replace(CERTIFIED, public=PARTY.public),
    ):
        with pytest.raises(SignatureError):
            changed.check("market", COORDINATOR.public)


def test_a_stranger_with_a_key_of_its_own_cannot_make_a_pack() -> None:
    stranger = SigningKey.generate()
    made = Certificate.issue(stranger, "market", stranger.public, AT)
    with pytest.raises(EvidenceError) as caught:
        open_pack(seal_pack(CONTENTS, stranger, made, "run-1", AT), replace(KEYS, evidence=()))
    assert caught.value.part == CERTIFICATE
    with pytest.raises(EvidenceError) as caught:
        open_pack(seal_pack(CONTENTS, stranger, CERTIFIED, "run-1", AT), KEYS)
    assert caught.value.part == SIGNATURE


def test_another_certificate_of_the_same_key_is_another_pack() -> None:
    again = Certificate.issue(COORDINATOR, "market", EVIDENCE.public, AT.replace(year=2027))
    parts = unpack(PACK)
    with pytest.raises(EvidenceError) as caught:
        open_pack(pack({**parts, CERTIFICATE: again.to_json()}), KEYS)
    assert caught.value.part == CERTIFICATE


def test_a_pack_of_a_later_format_is_refused_as_such() -> None:
    parts = unpack(PACK)
    manifest = json.loads(parts[MANIFEST])
    later = canonical_json({**manifest, "format": 2})
    digest = hashlib.sha256(later).digest()
    signature = EVIDENCE.sign(b"fedtags evidence pack 1\0" + digest).hex()
    signed = canonical_json({"manifest_sha256": digest.hex(), "signature": signature})
    with pytest.raises(EvidenceError, match=r"^manifest\.json: .*format 1 only"):
        open_pack(pack({**parts, SIGNATURE: signed, MANIFEST: later}), KEYS)


def test_sealing_needs_exactly_the_parts_of_the_format() -> None:
    with pytest.raises(EvidenceError):
        seal_pack({"plan.toml": b""}, EVIDENCE, CERTIFIED, "run-1", AT)


def test_a_key_file_reads_back_and_names_fingerprints() -> None:
    assert KeyFile.read(KEYS.to_json()) == KEYS
    assert KeyFile.read(KEYS.to_json().replace(b"  ", b"")) == KEYS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        KEYS.to_json().replace(b'"format": 1', b'"format": 2'),
        KEYS.to_json().replace(KEYS.coordinator.hex().encode(), PARTY.public.hex().encode()),
        KEYS.to_json().replace(KEYS.coordinator.hex().encode(), b"00"),
        KEYS.to_json().replace(b'"parties"', b'"people"'),
    ],
)
def test_what_is_no_key_file_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="key file"):
        KeyFile.read(data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]\n", b'{"a":1}', b'{"a": 1}\n', b'{"b":1}\n', b"\xff"]
)
def test_json_has_one_form(data: bytes) -> None:
    assert read_canonical("part", b'{"a":1}\n', {"a"}) == {"a": 1}
    with pytest.raises(FedtagsError):
        read_canonical("part", data, {"a"})
