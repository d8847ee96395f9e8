"""Log lines: one line each, whatever a message quotes."""

from __future__ import annotations

import logging

import pytest

from party_client import logs


def test_a_message_is_one_line_without_commands_for_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.set_up("text")
        logging.getLogger("one").warning("key 'a\nINFO run-1 finished\x1b[2J' is 未知")
    finally:
        logging.getLogger().handlers[:], level = kept
        logging.getLogger().setLevel(level)
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "a\\nINFO run-1 finished\\x1b[2J" in written
    assert "未知" in written
