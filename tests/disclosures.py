"""Parties that tell: a pinned federation, a policy that allows sections, the largest disclosure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from party_client.federation import Member, PinnedCoordinator, PinnedFederation, save_federation
from party_client.settings import PartySettings
from privacy import disclosure as told
from privacy.identity import SigningKey, fingerprint

FEDERATION = "market"


def pin_federation(settings: PartySettings, url: str = "https://127.0.0.1:1") -> None:
    """Join by hand: a federation of this party alone, whose coordinator is at `url`."""
    own = SigningKey.load(settings.identity_key).public
    coordinator = SigningKey.generate().public
    save_federation(
        settings.home,
        PinnedFederation(
            federation=FEDERATION,
            coordinator=PinnedCoordinator(
                url=url,
                superlink="127.0.0.1:2",
                public_key=coordinator.hex(),
                fingerprint=fingerprint(coordinator),
            ),
            requesters=(),
            members={
                settings.party: Member(
                    public_key=own.hex(), fingerprint=fingerprint(own), confirmed=True
                )
            },
        ),
    )


def set_policy(settings: PartySettings, sections: Iterable[str] | None) -> None:
    """Let policy.toml's [disclosure] name these and no other; None: it has no such section."""
    text = settings.policy.read_text(encoding="utf-8")
    text = re.sub(r"\n\[disclosure\]\n.*?\n(?=\n\[)", "", text, flags=re.DOTALL)
    if sections is not None:
        named = "".join(f"{one} = true\n" for one in sections)
        text = text.replace("\n[budget]\n", f"\n[disclosure]\n{named}\n[budget]\n", 1)
    settings.policy.write_text(text, encoding="utf-8")


def everything_told(party: str = "p" * 31, sequence: int = 2**53) -> told.Disclosure:
    """Every section, as long as it can be."""
    number, digest = 1.2345678901234567e-8, "a" * 64
    names = [f"{one:03}" + "n" * 60 for one in range(100)]
    return told.Disclosure(
        format=1,
        federation="f" * 63,
        party=party,
        sequence=sequence,
        status=told.StatusTold(
            version="v" * 64,
            bundle=digest,
            public_size=10**10,
            ledger_position=10**15,
            ledger_hash=digest,
        ),
        budget=told.BudgetTold(
            epsilon=number,
            delta=number,
            spent=number,
            used=number,
            last_run=names[0],
            runs_left=told.MAX_RUNS_LEFT,
        ),
        limits=tuple(
            told.LimitTold(
                name=one,
                window="lifetime",
                purpose="p" * 63,
                plan="p" * 63,
                epsilon=number,
                spent=number,
            )
            for one in names[: told.MAX_LIMITS]
        ),
        approvals=told.ApprovalsTold(
            waiting=(digest,) * told.MAX_PLANS, approved=(digest,) * told.MAX_PLANS
        ),
        tags=tuple(
            told.TagTold(name=f"t{one[:62]}", state="retired") for one in names[: told.MAX_TAGS]
        ),
        models=tuple(
            told.ModelTold(run=one, plan=digest, model=digest) for one in names[: told.MAX_RUNS]
        ),
        egress=told.EgressTold(
            runs=tuple(
                told.RunSent(run=one, messages=10**15, bytes=10**15)
                for one in names[: told.MAX_RUNS]
            ),
            other_messages=10**15,
            other_bytes=10**15,
        ),
    )
