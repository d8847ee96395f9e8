"""How this party's processes write log lines; see `privacy.hosting.logs`."""

from privacy.hosting.logs import LogFormat, set_up, without_values

__all__ = ["LogFormat", "set_up", "without_values"]
