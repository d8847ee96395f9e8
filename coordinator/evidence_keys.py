"""The key that signs evidence packs: made once, and certified by the coordinator's key.

The control plane holds no key of a run; with this one it can say that a pack is its own, and
nothing else. HOME/keys/evidence.pem is secret, HOME/evidence-key.json is its public certificate.
"""

from __future__ import annotations

from pathlib import Path

from coordinator.settings import CoordinatorSettings
from privacy.errors import ConfigError, EvidenceError, SignatureError
from privacy.evidence import Certificate
from privacy.hosting.database import utc_now
from privacy.identity import SigningKey


def key_path(settings: CoordinatorSettings) -> Path:
    """The evidence key, a secret file."""
    return settings.keys / "evidence.pem"


def certificate_path(settings: CoordinatorSettings) -> Path:
    """The evidence key's certificate, public."""
    return settings.home / "evidence-key.json"


def certify(settings: CoordinatorSettings) -> Certificate:
    """Make the evidence key, unless there is one, and certify it by the coordinator's key.

    A valid certificate stays as it is. Raises ConfigError if the coordinator's key cannot be read.
    """
    coordinator = SigningKey.load(settings.coordinator_key)
    if not key_path(settings).exists():
        SigningKey.generate().save(key_path(settings))
    public = SigningKey.load(key_path(settings)).public
    path = certificate_path(settings)
    if path.exists():
        found = _read(path)
        if found.public == public:
            _check(found, settings.federation, coordinator.public)
            return found
    made = Certificate.issue(coordinator, settings.federation, public, utc_now())
    draft = path.with_suffix(".new")
    draft.write_bytes(made.to_json())
    draft.replace(path)
    return made


def load(settings: CoordinatorSettings) -> tuple[SigningKey, Certificate]:
    """The evidence key and its certificate, made now in a home that is older than they are.

    Raises ConfigError if they cannot be had, or do not belong together.
    """
    if not (key_path(settings).exists() and certificate_path(settings).exists()):
        certify(settings)
    key, certificate = SigningKey.load(key_path(settings)), _read(certificate_path(settings))
    if certificate.public != key.public:
        raise ConfigError(
            f"{certificate_path(settings)} is not the certificate of keys/evidence.pem; run "
            "`fedtags-coordinator evidence certify`"
        )
    return key, certificate


def _read(path: Path) -> Certificate:
    try:
        return Certificate.read(path.read_bytes())
    except (OSError, EvidenceError) as error:
        raise ConfigError(
            f"{path} cannot be read as a certificate; remove it and run `fedtags-coordinator "
            "evidence certify`"
        ) from error


def _check(certificate: Certificate, federation: str, coordinator: bytes) -> None:
    try:
        certificate.check(federation, coordinator)
    except SignatureError as error:
        raise ConfigError(
            f"the evidence key's certificate does not hold ({error}); remove evidence-key.json and "
            "run `fedtags-coordinator evidence certify`"
        ) from error
