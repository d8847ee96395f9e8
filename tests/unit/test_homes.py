"""Home folders: whole or not at all, and closed to other users."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.errors import ConfigError
from privacy.hosting.homes import fresh_home


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_home_that_others_may_enter_is_closed_before_anything_stands_in_it(
    mode: int, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    with fresh_home(home) as staging:
        (staging / "keys").mkdir()
    assert home.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in home.iterdir()] == ["keys"]


def test_a_home_that_is_refused_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="never overwritten"), fresh_home(tmp_path) as staging:
        (staging / "keys").mkdir()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
