"""Certificates as TLS sees them: a real handshake, and each way a check must fail."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from privacy.errors import CertificateError, ConfigError, NotRunningError
from privacy.hosting.certificates import (
    check_certificate,
    check_server,
    create_authority,
    create_node_key,
    create_server_certificate,
)


def make(folder: Path, *hosts: str, days: int = 397) -> None:
    create_authority(folder / "ca.crt", folder / "ca.key", "market")
    create_server_certificate(
        folder / "server.pem",
        folder / "server.key",
        folder / "ca.crt",
        folder / "ca.key",
        hosts,
        days=days,
    )


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            connection.settimeout(5)
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(1)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_a_strict_client_that_pins_the_authority_accepts_the_server(tmp_path: Path) -> None:
    make(tmp_path)
    with tls_server(tmp_path) as port:
        check_server("127.0.0.1", port, tmp_path / "ca.crt")


def test_a_server_under_another_authority_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    make(tmp_path / "other")
    with (
        tls_server(tmp_path / "other") as port,
        pytest.raises(CertificateError, match="does not vouch"),
    ):
        check_server("127.0.0.1", port, tmp_path / "ca.crt")
    with pytest.raises(CertificateError, match="not signed by the authority"):
        check_certificate(tmp_path / "server.pem", authority=tmp_path / "other" / "ca.crt")


def test_no_server_is_not_a_certificate_error(tmp_path: Path) -> None:
    make(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NotRunningError, match=f"127.0.0.1:{port}"):
        check_server("127.0.0.1", port, tmp_path / "ca.crt")


def test_certificate_names_local_and_given_hosts_only(tmp_path: Path) -> None:
    make(tmp_path, "coord.example.org", "192.0.2.7")
    for host in ("localhost", "127.0.0.1", "coord.example.org", "192.0.2.7"):
        expires = check_certificate(tmp_path / "server.pem", host, tmp_path / "ca.crt")
    assert expires > datetime.now(UTC) + timedelta(days=300)
    with pytest.raises(CertificateError, match=r"not for the host bank\.example"):
        check_certificate(tmp_path / "server.pem", "bank.example")


def test_expired_and_future_certificates_are_refused(tmp_path: Path) -> None:
    make(tmp_path, days=1)
    check_certificate(tmp_path / "server.pem")
    with pytest.raises(CertificateError, match="expired"):
        check_certificate(tmp_path / "server.pem", now=datetime.now(UTC) + timedelta(days=2))
    with pytest.raises(CertificateError, match="not valid yet"):
        check_certificate(tmp_path / "server.pem", now=datetime.now(UTC) - timedelta(days=2))


def test_missing_or_broken_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"absent\.pem is missing"):
        check_certificate(tmp_path / "absent.pem")
    (tmp_path / "broken.pem").write_text("nothing")
    with pytest.raises(CertificateError, match="not a PEM certificate"):
        check_certificate(tmp_path / "broken.pem")


def test_private_keys_are_0600_and_the_authority_is_never_overwritten(tmp_path: Path) -> None:
    make(tmp_path)
    create_node_key(tmp_path / "node")
    for name in ("ca.key", "server.key", "node"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="already exists"):
        create_authority(tmp_path / "ca.crt", tmp_path / "ca.key", "market")
    with pytest.raises(ConfigError, match="already exists"):
        create_node_key(tmp_path / "node")


def test_renewing_replaces_key_and_certificate_under_the_same_authority(tmp_path: Path) -> None:
    make(tmp_path)
    before = (tmp_path / "server.pem").read_bytes(), (tmp_path / "server.key").read_bytes()
    create_server_certificate(
        tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.crt", tmp_path / "ca.key"
    )
    after = (tmp_path / "server.pem").read_bytes(), (tmp_path / "server.key").read_bytes()
    assert before[0] != after[0]
    assert before[1] != after[1]
    check_certificate(tmp_path / "server.pem", "localhost", tmp_path / "ca.crt")


def test_node_key_is_p384_in_openssh_form(tmp_path: Path) -> None:
    public_line = create_node_key(tmp_path / "keys" / "node")
    public = load_ssh_public_key((tmp_path / "keys" / "node.pub").read_bytes())
    private = load_ssh_private_key((tmp_path / "keys" / "node").read_bytes(), password=None)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert public.curve.name == "secp384r1"
    assert private.public_key() == public
    assert public_line.startswith(b"ecdsa-sha2-nistp384 ")
