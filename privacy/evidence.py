"""The evidence pack of one run: what it holds, what signs what, and what that proves.

    certificate.json   an evidence key, certified by the coordinator's key for one federation
    signature.json     the evidence key's signature of the manifest's SHA-256
    manifest.json      federation, run, time; length and SHA-256 of every part below
    plan.toml          the plan's bytes
    request.json       the requester's signature of run and plan; the parties' public keys
    statements.json    what the parties signed in the run, in the order that it was heard
    facts.json         what follows from plan and statements, and the mechanisms with their epsilon
    coordinator.json   what only the coordinator says: times, states, comings and goings, audit
    sbom.json          software versions of the coordinator (CycloneDX)
    report.en.html, report.zh.html, report.en.pdf, report.zh.pdf

A verifier needs a `KeyFile`, obtained out of band: the coordinator's, the requesters' and the
parties' public keys. With it and the file alone, verifying proves that

- a requester asked for exactly this plan under this run's name;
- each party signed each statement for this run, plan, set of participants and federation, and no
  statement of a party is left out before the last one that is shown (`evidence_chain`);
- each party's ledger, as it told others, grew without going back;
- the coordinator's control plane made this pack, and nothing in it changed since.

It does not prove that there was no other run: a coordinator can hide one. Ledger heads help: where
a party's ledger has more entries between two packs than their runs explain, ask that party. It does
not prove that a party computed what it signed, nor anything in coordinator.json, which is one
party's word. Signatures are Ed25519 (RFC 8032), each under a prefix of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from privacy import evidence_archive
from privacy.errors import ConfigError, EvidenceError, FedtagsError, SignatureError
from privacy.identity import RUN_ID_PATTERN, SigningKey, fingerprint, verify

FORMAT = 1
CERTIFICATE, SIGNATURE, MANIFEST = "certificate.json", "signature.json", "manifest.json"
PLAN, REQUEST, STATEMENTS = "plan.toml", "request.json", "statements.json"
FACTS, COORDINATOR, SBOM = "facts.json", "coordinator.json", "sbom.json"
REPORTS = ("report.en.html", "report.zh.html", "report.en.pdf", "report.zh.pdf")
CONTENT = (PLAN, REQUEST, STATEMENTS, FACTS, COORDINATOR, SBOM, *REPORTS)
PARTS = (CERTIFICATE, SIGNATURE, MANIFEST, *CONTENT)
FEDERATION_PATTERN = r"[a-z][a-z0-9-]{0,62}"
_TIME_PATTERN = r"[0-9T:+.-]{19,40}"
_PACK_DOMAIN = b"fedtags evidence pack 1\0"
_KEY_DOMAIN = b"fedtags evidence key 1\0"


@dataclass(frozen=True)
class Certificate:
    """The coordinator's word that `public` signs evidence packs of `federation`. `made_at`: ISO
    8601, UTC."""

    federation: str
    public: bytes
    made_at: str
    signature: bytes

    @classmethod
    def issue(
        cls, coordinator: SigningKey, federation: str, public: bytes, made_at: datetime
    ) -> Certificate:
        """A certificate signed now by the coordinator's key."""
        at = made_at.isoformat(timespec="seconds")
        return cls(federation, public, at, coordinator.sign(_key_statement(federation, public, at)))

    def check(self, federation: str, coordinator: bytes) -> None:
        """Raise SignatureError unless `coordinator` certified this key for `federation`."""
        if self.federation != federation:
            raise SignatureError(f"it is of the federation {self.federation}, not of {federation}")
        verify(coordinator, self.signature, _key_statement(federation, self.public, self.made_at))

    def to_json(self) -> bytes:
        """Canonical JSON; `read` reads it back."""
        return canonical_json(
            {
                "federation": self.federation,
                "made_at": self.made_at,
                "public_key": self.public.hex(),
                "signature": self.signature.hex(),
            }
        )

    @classmethod
    def read(cls, data: bytes) -> Certificate:
        """Raises EvidenceError unless `data` is a certificate in canonical JSON."""
        fields = read_canonical(
            CERTIFICATE, data, {"federation", "made_at", "public_key", "signature"}
        )
        return cls(
            text_of(CERTIFICATE, fields, "federation", FEDERATION_PATTERN),
            hex_of(CERTIFICATE, fields, "public_key", 32),
            text_of(CERTIFICATE, fields, "made_at", _TIME_PATTERN),
            hex_of(CERTIFICATE, fields, "signature", 64),
        )


@dataclass(frozen=True)
class KeyFile:
    """The public keys that a verifier trusts. `parties` and `requesters`: names with keys; a name
    may have had several. `evidence`: the evidence keys that count; empty: every one that the
    coordinator certified."""

    federation: str
    coordinator: bytes
    parties: tuple[tuple[str, bytes], ...]
    requesters: tuple[tuple[str, bytes], ...]
    evidence: tuple[bytes, ...] = ()

    def to_json(self) -> bytes:
        """Indented JSON, with fingerprints for people to compare."""
        data = {
            "format": FORMAT,
            "federation": self.federation,
            "coordinator": _named(self.coordinator),
            "parties": [{"name": name, **_named(key)} for name, key in sorted(self.parties)],
            "requesters": [{"name": name, **_named(key)} for name, key in sorted(self.requesters)],
            "evidence_keys": [_named(key) for key in sorted(self.evidence)],
        }
        return json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, data: bytes) -> KeyFile:
        """Raises ConfigError, naming no value, for anything but a key file."""
        try:
            found = json.loads(data)
            keys = cls(
                str(found["federation"]),
                _key(found["coordinator"]),
                tuple((str(one["name"]), _key(one)) for one in found["parties"]),
                tuple((str(one["name"]), _key(one)) for one in found["requesters"]),
                tuple(_key(one) for one in found.get("evidence_keys", [])),
            )
            if found["format"] != FORMAT:
                raise ValueError("format")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                "the key file is not one that `fedtags-coordinator evidence keys` writes, or a "
                "fingerprint in it is not that of its key; get it again from whom you trust"
            ) from error
        return keys

    def check_party(self, name: str, public: bytes) -> None:
        """Raise EvidenceError unless the file has this key under this name."""
        if (name, public) not in self.parties:
            raise EvidenceError(REQUEST, f"the key file does not have this key of the party {name}")


@dataclass(frozen=True)
class Pack:
    """A pack whose signatures and hashes hold. `parts` are those of CONTENT."""

    federation: str
    run: str
    made_at: str
    evidence_key: bytes
    parts: Mapping[str, bytes]


def seal_pack(
    parts: Mapping[str, bytes],
    signer: SigningKey,
    certificate: Certificate,
    run: str,
    made_at: datetime,
) -> bytes:
    """The signed archive of `parts`, which are exactly those of CONTENT."""
    if set(parts) != set(CONTENT):
        raise EvidenceError(MANIFEST, "a pack has exactly the parts of its format")
    listed = {
        name: {"bytes": len(parts[name]), "sha256": _sha256(parts[name]).hex()} for name in CONTENT
    }
    manifest = canonical_json(
        {
            "certificate_sha256": _sha256(certificate.to_json()).hex(),
            "federation": certificate.federation,
            "format": FORMAT,
            "made_at": made_at.isoformat(timespec="seconds"),
            "parts": listed,
            "run": run,
        }
    )
    digest = _sha256(manifest)
    signature = canonical_json(
        {"manifest_sha256": digest.hex(), "signature": signer.sign(_PACK_DOMAIN + digest).hex()}
    )
    first = {CERTIFICATE: certificate.to_json(), SIGNATURE: signature, MANIFEST: manifest}
    return evidence_archive.pack({**first, **{name: parts[name] for name in CONTENT}})


def open_pack(data: bytes, keys: KeyFile) -> Pack:
    """Verify the container: certificate, signature, every part's hash, the archive's form.

    Raises EvidenceError naming the part that failed: of any change, the part in which it lies
    ('archive' outside of all). What the parts say is verified elsewhere.
    """
    parts = evidence_archive.unpack(data)
    if tuple(parts) != PARTS:
        raise EvidenceError(evidence_archive.ARCHIVE, "a pack has exactly the parts of its format")
    certificate = Certificate.read(parts[CERTIFICATE])
    try:
        certificate.check(keys.federation, keys.coordinator)
    except SignatureError as error:
        raise EvidenceError(
            CERTIFICATE,
            f"the evidence key is not certified by this federation's coordinator: {error}",
        ) from error
    if keys.evidence and certificate.public not in keys.evidence:
        raise EvidenceError(CERTIFICATE, "the evidence key is not among those of the key file")
    claimed = read_canonical(SIGNATURE, parts[SIGNATURE], {"manifest_sha256", "signature"})
    digest = hex_of(SIGNATURE, claimed, "manifest_sha256", 32)
    try:
        signature = hex_of(SIGNATURE, claimed, "signature", 64)
        verify(certificate.public, signature, _PACK_DOMAIN + digest)
    except SignatureError as error:
        raise EvidenceError(SIGNATURE, "the evidence key did not sign this") from error
    if _sha256(parts[MANIFEST]) != digest:
        raise EvidenceError(MANIFEST, "changed since it was signed")
    pack = _listed(parts, certificate, keys)
    evidence_archive.check_form(data, parts)
    return pack


def _listed(parts: Mapping[str, bytes], certificate: Certificate, keys: KeyFile) -> Pack:
    fields = {"certificate_sha256", "federation", "format", "made_at", "parts", "run"}
    manifest = read_canonical(MANIFEST, parts[MANIFEST], fields)
    if manifest["format"] != FORMAT:
        raise EvidenceError(MANIFEST, f"this software reads format {FORMAT} only")
    if manifest["federation"] != keys.federation:
        raise EvidenceError(MANIFEST, f"it is not of the federation {keys.federation}")
    if manifest["certificate_sha256"] != _sha256(parts[CERTIFICATE]).hex():
        raise EvidenceError(CERTIFICATE, "another one than when the pack was signed")
    listed = manifest["parts"]
    if not isinstance(listed, dict) or set(listed) != set(CONTENT):
        raise EvidenceError(MANIFEST, "a pack has exactly the parts of its format")
    for name in CONTENT:
        told = {"bytes": len(parts[name]), "sha256": _sha256(parts[name]).hex()}
        if listed[name] != told:
            raise EvidenceError(name, "changed since it was signed")
    return Pack(
        keys.federation,
        text_of(MANIFEST, manifest, "run", RUN_ID_PATTERN),
        text_of(MANIFEST, manifest, "made_at", _TIME_PATTERN),
        certificate.public,
        {name: parts[name] for name in CONTENT},
    )


def canonical_json(value: Any) -> bytes:
    """One value, one text: sorted keys, no spaces, UTF-8, a line end."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )
    return text.encode() + b"\n"


def read_canonical(part: str, data: bytes, fields: set[str]) -> dict[str, Any]:
    """The object in `data`, of exactly these fields. Raises EvidenceError if it is another or is
    not in canonical form."""
    try:
        value = json.loads(data)
        sound = isinstance(value, dict) and set(value) == fields and canonical_json(value) == data
    except (ValueError, RecursionError) as error:
        raise EvidenceError(part, "changed: it cannot be read any more") from error
    if not sound:
        raise EvidenceError(part, "not in the one form that it was made in")
    return dict(value)


def hex_of(part: str, fields: Mapping[str, Any], name: str, length: int) -> bytes:
    """The `length` bytes of a field. Raises EvidenceError if it does not hold them."""
    try:
        value = bytes.fromhex(fields[name])
    except (ValueError, TypeError, KeyError) as error:
        raise EvidenceError(part, f"{name} is not hexadecimal") from error
    if len(value) != length:
        raise EvidenceError(part, f"{name} does not hold {length} bytes")
    return value


def text_of(part: str, fields: Mapping[str, Any], name: str, pattern: str) -> str:
    """A field's text, which may be shown. Raises EvidenceError if it is none of this pattern."""
    value = fields.get(name)
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise EvidenceError(part, f"{name} is not a text of its form")
    return value


def named_failure(part: str, error: FedtagsError) -> EvidenceError:
    """`error`, found while `part` was verified, as the pack's error."""
    return error if isinstance(error, EvidenceError) else EvidenceError(part, str(error))


def _key_statement(federation: str, public: bytes, made_at: str) -> bytes:
    return _KEY_DOMAIN + "\0".join((federation, public.hex(), made_at)).encode()


def _named(key: bytes) -> dict[str, str]:
    return {"fingerprint": fingerprint(key), "public_key": key.hex()}


def _key(one: Mapping[str, Any]) -> bytes:
    key = bytes.fromhex(one["public_key"])
    if len(key) != 32 or one.get("fingerprint", fingerprint(key)) != fingerprint(key):
        raise ValueError("key")
    return key


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
