"""TLS certificates of a federation's coordinator, and the key pair a SuperNode signs with.

One certificate authority per federation, made by `init`; it signs the coordinator's server
certificate and nothing else. Parties pin the authority's certificate (it travels in the invite),
so no public authority can stand in for the coordinator. Private keys are files of mode 0600 and
never leave the home they were made in.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.errors import CertificateError, ConfigError, NotRunningError
from privacy.identity import write_secret

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
# Clocks of organisations differ: a certificate is valid from a little before it was made.
_SKEW = timedelta(hours=1)
LOCAL_HOSTS = ("localhost", "127.0.0.1")


def create_authority(certificate: Path, key: Path, name: str) -> None:
    """Make a self-signed authority for the federation `name`. Existing files are refused."""
    private = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedtags {name}"[:64])])
    built = (
        _builder(subject, subject, private.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
        )
        .sign(private, hashes.SHA384())
    )
    write_secret(key, _private_pem(private))
    _write(certificate, built.public_bytes(serialization.Encoding.PEM))


def create_server_certificate(
    certificate: Path,
    key: Path,
    authority: Path,
    authority_key: Path,
    hosts: Sequence[str] = (),
    days: int = SERVER_DAYS,
) -> None:
    """Make a server key and a certificate for localhost, 127.0.0.1 and `hosts` (names or IPs).

    An existing certificate is replaced together with its key, so this also renews.
    """
    issuer = load_certificate(authority)
    signer = _load_private(authority_key)
    private = ec.generate_private_key(ec.SECP384R1())
    names = list(dict.fromkeys([*LOCAL_HOSTS, *hosts]))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (hosts or names)[0][:64])])
    built = (
        _builder(subject, issuer.subject, private.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in names]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA384())
    )
    key.unlink(missing_ok=True)
    write_secret(key, _private_pem(private))
    _write(certificate, built.public_bytes(serialization.Encoding.PEM))


def create_node_key(path: Path) -> bytes:
    """Make the ECDSA P-384 pair a SuperNode authenticates with: `path` (OpenSSH, 0600) and
    `path`.pub. Returns the public line. An existing key is refused."""
    private = ec.generate_private_key(ec.SECP384R1())
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_secret(
        path,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    _write(path.with_name(path.name + ".pub"), public + b"\n")
    return public


def load_certificate(path: Path) -> x509.Certificate:
    """Read one PEM certificate. Raises CertificateError if it is missing or not a certificate."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"certificate {path} is missing or not a PEM certificate; copy it again or run init"
        ) from error


def check_certificate(
    path: Path,
    host: str | None = None,
    authority: Path | None = None,
    now: datetime | None = None,
) -> datetime:
    """Raise CertificateError unless the certificate in `path` is valid at `now`, names `host` and
    was signed by `authority` (each where given). Returns when it expires."""
    certificate = load_certificate(path)
    now = now or datetime.now(UTC)
    if now < certificate.not_valid_before_utc:
        raise CertificateError(f"certificate {path} is not valid yet; check this machine's clock")
    if now > certificate.not_valid_after_utc:
        raise CertificateError(
            f"certificate {path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; the "
            "coordinator must renew it"
        )
    if host is not None and _general_name(host) not in _hosts(certificate):
        raise CertificateError(
            f"certificate {path} is not for the host {host}; connect by a name that it lists or "
            "have the coordinator add this one to `hosts`"
        )
    if authority is not None:
        issuer = load_certificate(authority)
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise CertificateError(
                f"certificate {path} was not signed by the authority in {authority}; ask the "
                "coordinator for a new invite"
            ) from error
    return certificate.not_valid_after_utc


def check_server(host: str, port: int, authority: Path, timeout_s: float = 5.0) -> None:
    """Connect as a SuperNode would. Raises CertificateError if the server's certificate does not
    hold under `authority` for `host`, NotRunningError if nothing answers with TLS there."""
    load_certificate(authority)
    context = ssl.create_default_context(cafile=str(authority))
    # Python 3.13 and later do this by default; a certificate must not pass on 3.11 alone.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(
            f"the server at {host}:{port} shows a certificate that {authority} does not vouch for "
            f"({error.verify_message}); do not go on before the coordinator has explained it"
        ) from error
    except (OSError, ssl.SSLError) as error:
        raise NotRunningError(
            f"no TLS server answers at {host}:{port}; is the coordinator running and reachable?"
        ) from error


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - _SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _SKEW + timedelta(days=days))
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is not a host name; write it in ASCII (punycode)") from error


def _hosts(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(names.value)


def _private_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"key file {path} cannot be read; restore it from backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"key file {path} does not hold an elliptic-curve key")
    return key


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
