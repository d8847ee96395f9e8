"""Flower's SuperLink: how it is started, and the few things the coordinator asks of it.

Process isolation with a secret is not a matter of taste: in Flower's other mode anyone who reaches
the port can take a ServerApp task. The Control API has no authentication of its own, so the port
stays on loopback or behind a proxy that lets nothing but /v1/fleet/ through.

Requests go through Flower's own HTTP client for the Control API, which is internal to Flower 1.41
(pinned): a run is submitted in a tenth of a second instead of the one to three that a `flwr`
process takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from privacy.errors import ConfigError, NotRunningError, RunError
from privacy.hosting.bundle import bundle_bytes
from privacy.hosting.processes import accepts_connections, check_port_free
from privacy.hosting.supervision import Child, program


@dataclass(frozen=True)
class SuperLinkFiles:
    """What the SuperLink is started with. `home` holds its database and Flower's own files."""

    home: Path
    host: str
    port: int
    ca_certificate: Path
    server_certificate: Path
    server_key: Path
    superexec_secret: Path

    @property
    def address(self) -> str:
        """host:port, with brackets round an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def superlink_child(files: SuperLinkFiles) -> Child:
    """The SuperLink process. Raises PortInUseError if its port is taken."""
    check_port_free(files.host, files.port, "superlink.port")
    argv = [program("flower-superlink"), "--host", files.host, "--port", str(files.port)]
    argv += ["--ssl-ca-certfile", str(files.ca_certificate)]
    argv += ["--ssl-certfile", str(files.server_certificate)]
    argv += ["--ssl-keyfile", str(files.server_key)]
    argv += ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    argv += ["--database", str(files.home / "superlink.db"), "--isolation", "process"]
    argv += ["--superexec-auth-secret-file", str(files.superexec_secret)]
    return Child(
        "superlink",
        argv,
        environment={"FLWR_HOME": str(files.home / "flower")},
        ready=lambda: accepts_connections(files.host, files.port),
        restart=True,
    )


def superexec_child(files: SuperLinkFiles, environment: dict[str, str]) -> Child:
    """The process that starts a ServerApp for each run; `environment` is handed on to it."""
    argv = [program("flower-superexec"), "--runtime-api-address", files.address]
    argv += ["--root-certificates", str(files.ca_certificate)]
    argv += ["--superexec-auth-secret-file", str(files.superexec_secret)]
    return Child(
        "superexec",
        argv,
        environment={"FLWR_HOME": str(files.home / "flower"), **environment},
        restart=True,
    )


@dataclass(frozen=True)
class Node:
    """A registered SuperNode. `public_key` is its canonical OpenSSH line, without a comment;
    `last_seen`: when it was last known to be connected, None if it never was."""

    node_id: int
    name: str
    public_key: str
    online: bool
    last_seen: datetime | None = None


class SuperLink:
    """A running SuperLink at `address` (host:port), trusted through `ca_certificate`.

    Every method raises NotRunningError if it does not answer and RunError if it refuses.
    """

    def __init__(self, address: str, ca_certificate: Path) -> None:
        self.address = address
        self._ca_certificate = ca_certificate

    def register_node(self, public_key: str, name: str) -> None:
        """Let the SuperNode with this OpenSSH public key connect; twice is no error.

        Raises ConfigError if it is not an elliptic-curve key of a NIST curve.
        """
        key = _load_public(public_key)
        request = RegisterNodeRequest(public_key=_pem(key), name=name)
        with self._client() as client:
            _call(client.RegisterNode, request, allow=ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE)

    def unregister_node(self, public_key: str) -> None:
        """Let the SuperNode with this key connect no more; an unknown one is no error."""
        wanted = canonical_public_key(public_key)
        found = [node.node_id for node in self.nodes() if node.public_key == wanted]
        with self._client() as client:
            for node_id in found:
                _call(client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[Node]:
        """All registered SuperNodes."""
        with self._client() as client:
            listed = _call(client.ListNodes, ListNodesRequest()).nodes_info
        return [
            Node(
                each.node_id,
                each.name,
                _openssh(each.public_key),
                each.status == "online",
                _last_seen(each.status == "online", each),
            )
            for each in listed
            if each.status != "unregistered"
        ]

    def start_run(self, run_id: str) -> str:
        """Start a ServerApp for the stored run `run_id`; returns Flower's id of it."""
        content = bundle_bytes()
        fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        config = user_config_to_proto({"run-id": run_id})
        with self._client() as client:
            started = _call(client.StartRun, StartRunRequest(fab=fab, override_config=config))
        if not started.run_id:
            raise RunError("the SuperLink did not accept the run; see logs/superlink.log")
        return str(started.run_id)

    def stop_run(self, flower_run_id: str) -> None:
        """End a run at once; one that has ended is no error."""
        request = StopRunRequest(run_id=int(flower_run_id))
        with self._client() as client:
            _call(client.StopRun, request, allow=ApiErrorCode.RUN_ALREADY_FINISHED)

    def status(self, flower_run_id: str) -> str:
        """pending, starting, running, or finished:completed, :failed, :stopped, or :unknown if the
        SuperLink has lost it."""
        number = int(flower_run_id)
        with self._client() as client:
            request, lost = ListRunsRequest(run_id=number), ApiErrorCode.RUN_ID_NOT_FOUND
            listed = _call(client.ListRuns, request, allow=lost)
        if listed is None or number not in listed.run_dict:
            return "finished:unknown"
        status = listed.run_dict[number].status
        return f"{status.status}:{status.sub_status}" if status.sub_status else str(status.status)

    def has_ended(self, flower_run_id: str) -> bool:
        """True once the run has ended, however it did."""
        return self.status(flower_run_id).startswith("finished")

    @contextmanager
    def _client(self) -> Iterator[Any]:
        # No retry invoker: Flower's sends SIGINT to its own process when it meets a 401.
        client = ControlHttpClient.from_server_address(
            server_address=self.address,
            insecure=False,
            root_certificates=str(self._ca_certificate),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="fedtags")],
        )
        try:
            yield client
        except httpx.TransportError as error:
            raise NotRunningError(
                f"the SuperLink at {self.address} does not answer; is the coordinator running?"
            ) from error
        finally:
            client.close()


def canonical_public_key(line: str) -> str:
    """An OpenSSH public key without comment or options. Raises ConfigError if it is not EC."""
    return _ssh(_load_public(line))


def _call(method: Callable[[Any], Any], request: Any, allow: int | None = None) -> Any:
    try:
        return method(request)
    except httpx.HTTPStatusError as error:
        said = FlowerError.from_json(error.response.text)
        if said is not None and said.code == allow:
            return None
        reason = said.message if said is not None else f"HTTP {error.response.status_code}"
        raise RunError(f"the SuperLink refused: {reason}; see logs/superlink.log") from error


def _last_seen(online: bool, info: Any) -> datetime | None:
    if online:
        return datetime.now(UTC)
    text = info.last_deactivated_at or info.last_activated_at
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except ValueError:
        return None


def _load_public(line: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("the SuperNode's public key is not an OpenSSH key line") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError("the SuperNode's public key must be an elliptic-curve key (P-384)")
    return key


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _openssh(pem: bytes) -> str:
    key = load_pem_public_key(pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # the SuperLink registers no other
    return _ssh(key)


def _ssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
