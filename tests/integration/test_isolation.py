"""What code under the SuperNode's OS user gets of the party: the constant refusal and nothing else.

A real service under one user and hostile code under others, as in a deployment. It needs root, to
have several users. That a foreign Flower bundle does not get to run at all is shown in
test_flower_channel.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from party_client import egress
from party_client.node_home import export_node_home, load_node_home
from party_client.processes import Part, run_foreground, service_answers
from party_client.settings import PartySettings, load_settings
from party_client.socket_server import peer_of
from privacy.errors import ConfigError
from privacy.hosting.supervision import child_environment
from privacy.messages import REFUSAL
from simulations.homes import offline_federation
from simulations.population import write_market
from tests.servers import require_or_skip

NODE_USER = "nobody"
SERVICE_UID = 64001
STRANGER_UID = 64002
START_S = 120.0
DENIED = frozenset({"PermissionError", "no such file"})
# The connection ended without a byte.
CLOSED = frozenset({"", "ConnectionResetError", "BrokenPipeError"})


@dataclass(frozen=True)
class Running:
    """A party whose service runs as SERVICE_UID and hears NODE_USER only."""

    settings: PartySettings
    pid: int
    group: int


ROOT = Path(__file__).parents[2]


def as_user(uid: int, groups: list[int], *arguments: object) -> dict[str, Any]:
    """What `subprocess` needs to run `other_user` with these."""
    listed = ",".join(str(one) for one in groups)
    program = [sys.executable, "-m", "tests.integration.other_user", str(uid), listed]
    secret = {"SECRET_OF_THE_SERVICE": "rosebud", "PYTHONPATH": str(ROOT)}
    return {
        "args": [*program, *(str(one) for one in arguments)],
        "env": child_environment(secret),
        "cwd": "/",
    }


@pytest.fixture(scope="module")
def party() -> Iterator[Running]:
    require_or_skip("root", os.getuid() == 0)
    group = pwd.getpwnam(NODE_USER).pw_gid
    folder = Path(tempfile.mkdtemp(prefix="fedtags-isolation-"))
    folder.chmod(0o711)
    try:
        sources = write_market(folder / "m", 60)
        made = offline_federation(folder / "m", sources, dict.fromkeys(sources, 60))
        home, sockets = folder / "home", folder / "socket"
        shutil.copytree(made.homes["bank"], home)
        settings = isolate(home, sockets / "service.sock")
        sockets.mkdir()
        sockets.chmod(0o711)  # whatever umask this process has by now
        os.chown(sockets, SERVICE_UID, SERVICE_UID)
        process = subprocess.Popen(
            **as_user(SERVICE_UID, [SERVICE_UID, group], "service", home),
            stderr=(folder / "service.log").open("wb"),
        )
        try:
            deadline = time.monotonic() + START_S
            while not service_answers(settings.socket):
                assert process.poll() is None, (folder / "service.log").read_text()
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.05)
            yield Running(settings, process.pid, group)
            assert process.poll() is None, "hostile code ended the service"
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(folder)


def isolate(home: Path, socket: Path) -> PartySettings:
    path = home / "party.toml"
    path.write_text(
        f'{path.read_text()}\n[isolation]\nnode_user = "{NODE_USER}"\nsocket = "{socket}"\n'
    )
    return load_settings(home)


def attack(party: Running, uid: int, groups: list[int]) -> dict[str, Any]:
    """What `hostile` got as this user: for each attempt, an error's name or what it read."""
    settings = party.settings
    ended = subprocess.run(
        **as_user(uid, groups, "hostile", settings.home, party.pid, settings.socket),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert isinstance(found, dict)
    return found


def test_the_nodes_user_gets_the_constant_refusal_and_nothing_else(party: Running) -> None:
    before = egress.count(party.settings)
    found = attack(party, pwd.getpwnam(NODE_USER).pw_uid, [party.group])
    said = found.pop("said")
    # One whole junk frame each: the refusal. Anything that is no frame: not a byte.
    whole = {name: bytes.fromhex(answer) for name, answer in said.items() if "frame" in name}
    assert len(whole) >= 5
    assert set(whole.values()) == {len(REFUSAL).to_bytes(4, "big") + REFUSAL}
    assert {answer for name, answer in said.items() if "frame" not in name} <= CLOSED
    assert len(found) >= 30
    assert {name: answer for name, answer in found.items() if answer not in DENIED} == {}
    lines = egress.read_page(party.settings)[: egress.count(party.settings) - before]
    assert [one.kind for one in lines] == ["refusal"] * len(whole)


def test_another_user_in_the_same_group_is_not_heard_at_all(party: Running) -> None:
    before = egress.count(party.settings)
    found = attack(party, STRANGER_UID, [party.group])
    said = found.pop("said")
    assert set(said.values()) <= CLOSED
    assert {name: answer for name, answer in found.items() if answer not in DENIED} == {}
    assert egress.count(party.settings) == before


def test_a_user_outside_the_group_cannot_connect(party: Running) -> None:
    found = attack(party, STRANGER_UID, [STRANGER_UID])
    assert set(found.pop("said").values()) == {"PermissionError"}
    assert {name: answer for name, answer in found.items() if answer not in DENIED} == {}


def test_the_service_itself_gets_what_hostile_code_does_not(party: Running) -> None:
    """The attempts are real ones: under the service's own user they succeed."""
    found = attack(party, SERVICE_UID, [SERVICE_UID])
    assert "-----BEGIN PRIVATE KEY" in found["read keys/identity.pem"]
    assert "rosebud" in found["read environ"]
    assert found["list home/"] not in DENIED
    assert set(found["said"].values()) <= CLOSED


# The node's own folder -----------------------------------------------------------------------


def test_the_nodes_folder_holds_its_key_and_addresses_and_belongs_to_its_user(
    party: Running, tmp_path: Path
) -> None:
    settings = load_settings(party.settings.home)
    settings.ca_certificate.write_text("a certificate")
    folder = tmp_path / "node"
    export_node_home(settings, folder)
    user = pwd.getpwnam(NODE_USER)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"node.toml", "ca.crt", "keys/node", "keys/node.pub"}
    for path in [folder, *folder.rglob("*")]:
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (user.pw_uid, user.pw_gid)
        assert found.st_mode & 0o077 == 0
    node = load_node_home(folder)
    assert node.files.socket == settings.socket
    assert node.files.node_key.read_bytes() == settings.node_key.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        export_node_home(settings, folder)
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(ConfigError, match="exists already"):
        export_node_home(settings, tmp_path / "link")
    with pytest.raises(ConfigError, match="inside the party's home"):
        export_node_home(settings, settings.home / "node")
    with pytest.raises(ConfigError, match="node-home"):
        run_foreground(settings, Part.NODE)


def test_a_node_user_that_isolates_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no user"):
        peer_of("no-such-user")
    for name in {"root", pwd.getpwuid(os.getuid()).pw_name}:
        with pytest.raises(ConfigError, match="isolates"):
            peer_of(name)
    assert peer_of(None).uid == os.getuid()


def test_a_socket_folder_that_others_may_change_is_refused(party: Running) -> None:
    """Whoever can write there could put a socket of his own in the service's place."""
    folder = party.settings.socket.parent
    for mode, owner in ((0o777, SERVICE_UID), (0o711, STRANGER_UID), (0o775, SERVICE_UID)):
        folder.chmod(mode)
        os.chown(folder, owner, owner)
        try:
            ended = subprocess.run(
                **as_user(SERVICE_UID, [SERVICE_UID, party.group], "service", party.settings.home),
                capture_output=True,
                text=True,
                timeout=START_S,
                check=False,
            )
        finally:
            os.chown(folder, SERVICE_UID, SERVICE_UID)
            folder.chmod(0o711)
        assert ended.returncode == ConfigError.exit_code
        assert "can be changed by other users" in ended.stderr


def test_the_socket_is_for_its_owner_and_the_nodes_group_only(party: Running) -> None:
    found = party.settings.socket.stat()
    assert found.st_mode & 0o777 == 0o660
    assert (found.st_uid, found.st_gid) == (SERVICE_UID, party.group)
    assert grp.getgrgid(party.group).gr_gid == party.group
