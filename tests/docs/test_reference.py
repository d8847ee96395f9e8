"""docs/reference is what the code says today, and the changelog names every value on the wire."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import typer
from pydantic import BaseModel
from typer.main import get_command

from privacy.messages import COORDINATOR_MESSAGES, PARTY_MESSAGES, Envelope, Header

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REGENERATE = "run: python docs/generate_reference.py"


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("generate_reference")


def test_the_reference_is_generated_from_this_code(generator: ModuleType) -> None:
    wanted = generator.generate()
    found = {path.name: path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md")}
    assert sorted(found) == sorted(wanted), REGENERATE
    for name, text in wanted.items():
        assert found[name] == text, f"{name} differs; {REGENERATE}"


def test_a_setting_without_a_text_is_refused(generator: ModuleType) -> None:
    class Settings(BaseModel):
        known: int
        forgotten: int = 1

    table = generator.keys_table(Settings, {"known": "a", "forgotten": "b"}, "settings")
    assert "| `forgotten` | integer | `1` | b |" in table
    with pytest.raises(generator.Undocumented, match="forgotten"):
        generator.keys_table(Settings, {"known": "a"}, "settings")
    with pytest.raises(generator.Undocumented, match="gone"):
        generator.keys_table(Settings, {"known": "a", "forgotten": "b", "gone": "c"}, "settings")


def test_a_command_option_or_message_field_without_a_text_is_refused(
    generator: ModuleType,
) -> None:
    app = typer.Typer()

    @app.command()
    def silent(value: int) -> None: ...

    with pytest.raises(generator.Undocumented, match="no help text"):
        generator._command("silent", get_command(app))

    other = typer.Typer()

    @other.command()
    def described(value: int) -> None:
        """Does something."""

    with pytest.raises(generator.Undocumented, match="value of described has no help text"):
        generator._command("described", get_command(other))

    class Leak(BaseModel):
        customers: int

    with pytest.raises(generator.Undocumented, match=r"Leak\.customers"):
        generator._message(Leak)


def test_the_changelog_names_every_value_that_crosses_a_border() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    fields = [
        f"`{message.__name__}.{name}`"
        for message in (Header, *COORDINATOR_MESSAGES, *PARTY_MESSAGES)
        for name in message.model_fields
    ]
    fields += [
        f"`Envelope.{name}`" for name in set(Envelope.model_fields) - set(Header.model_fields)
    ]
    assert [name for name in fields if name not in changelog] == []
