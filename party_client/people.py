"""This party's people and API tokens, and what stands for a customer in the access log."""

from __future__ import annotations

from party_client.settings import PartySettings
from privacy.hosting.access import Access
from privacy.identity import obtain_secret


def open_access(settings: PartySettings) -> Access:
    """The party's people and tokens. Raises ConfigError or StoreError."""
    return Access(settings.access_database, obtain_secret(settings.access_key))


def customer_hash(access: Access, customer: str) -> str:
    """What stands for a customer's normalised id in the access log: 128 bits of an HMAC."""
    return access.keyed_hash("customer", customer)[:32]
