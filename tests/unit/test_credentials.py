"""Secrets by reference: a file, the environment, a keyring; no error shows what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import NoKeyringError

from privacy.errors import ConfigError
from privacy.hosting.credentials import resolve_secret

SECRET = "pässword: 4711 "


class Shelf(KeyringBackend):
    """A keyring in memory: a desktop's own is not there where tests run."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        if service == "locked":
            raise NoKeyringError
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    before, own = keyring.get_keyring(), Shelf()
    keyring.set_keyring(own)
    yield own
    keyring.set_keyring(before)


def written(home: Path, content: bytes, mode: int = 0o600) -> str:
    (home / "keys").mkdir(exist_ok=True)
    path = home / "keys" / "db.password"
    path.write_bytes(content)
    path.chmod(mode)
    return "file:keys/db.password"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_file_gives_its_line_without_the_line_end(end: str, mode: int, tmp_path: Path) -> None:
    reference = written(tmp_path, (SECRET + end).encode(), mode)
    assert resolve_secret(reference, tmp_path) == SECRET
    assert resolve_secret(f"file:{tmp_path}/keys/db.password", Path("/nowhere")) == SECRET


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o606])
def test_a_file_that_every_user_can_read_or_change_is_refused(mode: int, tmp_path: Path) -> None:
    reference = written(tmp_path, SECRET.encode(), mode)
    with pytest.raises(ConfigError, match=r"every user of this machine: .* chmod 600"):
        resolve_secret(reference, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"\xff\xfe", b"x" * 70_000, b"a\0b"])
def test_a_file_that_holds_no_line_of_text_is_refused_unseen(
    content: bytes, tmp_path: Path
) -> None:
    reference = written(tmp_path, content)
    with pytest.raises(ConfigError, match=r"keys/db\.password") as raised:
        resolve_secret(reference, tmp_path)
    assert "xx" not in str(raised.value)


def test_a_file_that_is_missing_a_folder_or_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("missing", "folder", "pipe"):
        with pytest.raises(ConfigError, match=f"file:{name}"):
            resolve_secret(f"file:{name}", tmp_path)


def test_the_environment_and_the_keyring_give_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shelf: Shelf
) -> None:
    monkeypatch.setenv("FEDTAGS_TEST_SECRET", SECRET)
    keyring.set_password("our/crm", "reader", SECRET)
    assert resolve_secret("env:FEDTAGS_TEST_SECRET", tmp_path) == SECRET
    assert resolve_secret("keyring:our/crm/reader", tmp_path) == SECRET


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("env:FEDTAGS_TEST_MISSING", "is not set"),
        ("env:A=B", "is not set"),
        ("keyring:crm/nobody", "is not in the keyring"),
        ("keyring:locked/reader", "NoKeyringError"),
        ("keyring:reader", "keyring:SERVICE/USER"),
        ("env:", "given by reference"),
        ("hunter2-4711", "given by reference"),
        ("vault:hunter2-4711", "given by reference"),
    ],
)
def test_a_reference_that_names_nothing_is_refused_and_a_bare_password_is_not_shown(
    reference: str, wanted: str, tmp_path: Path, shelf: Shelf
) -> None:
    with pytest.raises(ConfigError, match=wanted) as raised:
        resolve_secret(reference, tmp_path)
    assert "hunter2" not in str(raised.value)
