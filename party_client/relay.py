"""Runs Flower's tasks at a party: `python -m party_client.relay`, one resident process.

It takes the place of Flower's SuperExec, which would unpack what the coordinator delivered and
start a Python process for every message (nearly two seconds of processor time each). It runs no
delivered code: a task is carried out only if its bundle is, by SHA-256, the one that this
installation would build, and then by the installed copy of the same file. Anything else gets an
error reply. So a coordinator cannot place code at a party at all.

Like SuperExec it authenticates to the SuperNode with a secret; it holds no data and no other key.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Error, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from party_client import logs
from privacy.errors import ConfigError
from privacy.hosting.bundle import bundle_hash

POLL_S = 0.1
RETRY_S = 1.0
FOREIGN_BUNDLE = 101
APP_FAILED = 102

logger = logging.getLogger("party_client.relay")


def serve(address: str, secret: bytes) -> None:
    """Carry out tasks of the SuperNode at `address` until the process that started us is gone.

    Raises ConfigError if the SuperNode does not accept the secret.
    """
    app, trusted, parent = load_app(), bundle_hash(), os.getppid()
    logger.info("relay of bundle %s is ready", trusted)
    client = _client(
        address,
        SuperExecAuthHttpInterceptor(
            master_secret=secret,
            protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
        ),
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])

    def acquire() -> str:
        """The token of a task that waits, empty if none does."""
        acquired = client.AcquireTask(request)
        return str(acquired.token) if acquired.HasField("task") else ""

    token = ""
    while os.getppid() == parent:
        try:
            current, token = token or acquire(), ""
            if current:
                token = carry_out(address, current, app, trusted, acquire)
                continue
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                raise ConfigError("the SuperNode does not accept the relay's secret") from error
            logger.warning("the SuperNode answered HTTP %d", error.response.status_code)
            time.sleep(RETRY_S)
        except httpx.TransportError as error:
            logger.warning("the SuperNode does not answer (%s)", type(error).__name__)
            time.sleep(RETRY_S)
        except Exception:  # one message that cannot be carried must not end the relay
            logger.exception("a task could not be carried out")
            time.sleep(RETRY_S)
        time.sleep(POLL_S)


class GivenUp(Exception):
    """The message that is waited for never comes: the SuperNode has gone on to another one."""

    def __init__(self, newer: str) -> None:
        super().__init__("the SuperNode has given this message up")
        self.newer = newer


class Watchful:
    """A client of Flower's for one task, which notices that its message never comes.

    A SuperNode makes the task before it has the message's objects, handles one message at a time,
    and forgets the task when their run ends meanwhile. Flower's own client would wait two hours.
    """

    def __init__(self, client: Any, acquire: Callable[[], str]) -> None:
        self._client, self._acquire = client, acquire
        self._lock, self._newer = threading.Lock(), ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def PullObject(self, request: Any) -> Any:  # noqa: N802  Flower's name
        """As the client's own. Raises GivenUp if another task waits while an object is missing."""
        response = self._client.PullObject(request)
        if response.object_found and not response.object_available:
            with self._lock:
                self._newer = self._newer or self._acquire()
                if self._newer:
                    raise GivenUp(self._newer)
        return response


def carry_out(address: str, token: str, app: Any, trusted: str, acquire: Callable[[], str]) -> str:
    """Answer the one message that `token` stands for. Returns the token of a newer task if that
    came because this message never will, else an empty text."""
    client = _client(address, RuntimeTokenHttpInterceptor(token))
    heartbeat = HeartbeatSender(lambda: _beat(client))
    heartbeat.start()
    context, details = None, ""
    try:
        message, context, _, fab = pull_task_input(Watchful(client, acquire))
        if hashlib.sha256(fab.content).hexdigest() != trusted:
            details = "the bundle is not the one that this party installed"
            logger.warning("refused: %s", details)
            reply = Message(Error(FOREIGN_BUNDLE, details), reply_to=message)
        else:
            try:
                reply = app(message=message, context=context)
            except Exception as error:  # whatever it is, the message gets a reply
                details = f"the relay failed ({type(error).__name__})"
                logger.exception("a message could not be relayed")
                reply = Message(Error(APP_FAILED, details), reply_to=message)
        push_message(client, reply, context)
    except GivenUp as given_up:
        details = str(given_up)
        logger.warning("a message never came: %s", details)
        return given_up.newer
    except Exception as error:
        details = f"the task failed ({type(error).__name__})"
        raise
    finally:
        heartbeat.stop()
        status = SubStatus.FAILED if details else SubStatus.COMPLETED
        push_task_output(client, context, status, details)
        client.close()
    return ""


def load_app() -> Any:
    """The ClientApp of the installed bundle."""
    path = files("coordinator") / "flower_app" / "client_app.py"
    spec = importlib.util.spec_from_file_location("fedtags_relay_client_app", str(path))
    if spec is None or spec.loader is None:
        raise ConfigError("this installation lacks flower_app/client_app.py; install fedtags again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def main() -> None:
    """Command line: SuperNode address and secret file."""
    parser = argparse.ArgumentParser(description="Carry Flower's messages to the party service.")
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    logs.set_up(arguments.log_format)
    try:
        serve(arguments.runtime_api_address, arguments.secret_file.read_bytes())
    except ConfigError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)


def _client(address: str, authentication: Any) -> Any:
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # loopback, to the SuperNode beside us
        root_certificates=None,
        interceptors=[version, authentication],
    )


def _beat(client: Any) -> bool:
    try:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except httpx.HTTPError:
        return False  # tried again by the sender
    return True


if __name__ == "__main__":
    main()
