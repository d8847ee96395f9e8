"""Asking a running control plane whether it can do its work."""

from __future__ import annotations

import ssl

import httpx

from coordinator.settings import CoordinatorSettings
from privacy.errors import ConfigError

TIMEOUT_S = 10.0


def ask_ready(settings: CoordinatorSettings) -> list[str]:
    """What keeps it from that, in words; empty: nothing. Raises ConfigError without a readable
    certificate authority."""
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_certificate))
    except OSError as error:
        raise ConfigError(f"{settings.ca_certificate} cannot be used; restore it") from error
    try:
        with httpx.Client(verify=context, trust_env=False, timeout=TIMEOUT_S) as client:
            told = client.get(f"{settings.control_url}/ready").json()
    except (httpx.HTTPError, ValueError):
        return [f"no control plane answers at {settings.control_url}: fedtags-coordinator start"]
    if not isinstance(told, dict) or not isinstance(told.get("missing"), list):
        return ["the control plane is of another version"]
    return [str(one) for one in told["missing"]]
