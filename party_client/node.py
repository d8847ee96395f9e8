"""What a party's service is made of, opened once from its home folder and passed inward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from party_client.federation import PinnedFederation, load_federation
from party_client.manifest_file import read_manifest
from party_client.model_shelf import ModelShelf, open_shelf
from party_client.peer_heads import PeerHeads
from party_client.policy import Policy, load_policy
from party_client.profile_store import ProfileStore, open_profile_store
from party_client.settings import load_settings
from party_client.sources import Source, open_source
from party_client.waiting_plans import WaitingPlans
from privacy.accounting import run_delta
from privacy.errors import ConfigError
from privacy.identity import SigningKey, read_secret
from privacy.ledger import Ledger
from privacy.randomness import Entropy, system_entropy


@dataclass(frozen=True)
class Node:
    """One party's parts. The source rereads files that changed, so withdrawn consent counts.

    `mapping`: the source's, canonical name to own column. `entropy` is the operating system's in
    service (`privacy.randomness`)."""

    party: str
    public_size: int
    key: SigningKey
    local_key: bytes
    federation: PinnedFederation
    policy: Policy
    ledger: Ledger
    peers: PeerHeads
    manifest: Path
    source: Source
    store: ProfileStore
    reports: Path
    shelf: ModelShelf
    plans: WaitingPlans
    mapping: Mapping[str, str]
    entropy: Entropy

    @property
    def coordinator_public(self) -> bytes:
        """The pinned key that signs the coordinator's messages."""
        return bytes.fromhex(self.federation.coordinator.public_key)


def open_node(home: Path, entropy: Entropy = system_entropy) -> Node:
    """Open everything a run needs. Raises ConfigError, LedgerError or StoreError, each saying
    which file and what to do."""
    settings = load_settings(home)
    policy = load_policy(settings.policy)
    if policy.budget.delta > run_delta(settings.public_size):
        raise ConfigError(
            "policy.toml: budget.delta must be at most 1 / (10 * public_size), which is "
            f"{run_delta(settings.public_size):.3g} here"
        )
    peers = PeerHeads(settings.peer_heads)
    peers.read()  # a damaged file is told now, not in the middle of a run
    read_manifest(settings.manifest)
    store = open_profile_store(settings)
    return Node(
        party=settings.party,
        public_size=settings.public_size,
        key=SigningKey.load(settings.identity_key),
        local_key=read_secret(settings.local_key),
        federation=load_federation(home),
        policy=policy,
        ledger=open_ledger(settings.ledger, policy),
        peers=peers,
        manifest=settings.manifest,
        source=open_source(settings.source, home, opted_out=store.opted_out),
        store=store,
        reports=settings.reports,
        shelf=open_shelf(settings),
        plans=WaitingPlans(settings.waiting_plans),
        mapping=settings.source.columns,
        entropy=entropy,
    )


def open_ledger(path: Path, policy: Policy) -> Ledger:
    """The party's ledger; a lifetime budget that the policy changed is recorded in it."""
    ledger = Ledger(path)
    ledger.amend(cap_epsilon=policy.budget.epsilon, cap_delta=policy.budget.delta)
    return ledger
