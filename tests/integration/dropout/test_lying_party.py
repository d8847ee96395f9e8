"""A party that lies to the coordinator ends the run, which names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from privacy.errors import FedtagsError, IntegrityError, ProtocolError, SignatureError
from privacy.framing import read, seal
from privacy.messages import PARTY_MESSAGES, Body, Header
from simulations.local_federation import Fault, FaultyChannel, announced

from .conftest import FOUR, Faulty

ALL = ("bank", "ecommerce", "grocer", "retailer")


@dataclass
class Lying:
    """The bank's answers of one kind are other ones, after `honest` true ones of that kind."""

    four: Faulty
    kind: str
    lie: Callable[[bytes], bytes]
    honest: int = 0

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        replies = dict(self.four.services_channel().exchange(frames, timeout_s))
        if announced(replies.get("bank", b""))[0] == self.kind:
            self.honest -= 1
            replies["bank"] = replies["bank"] if self.honest >= 0 else self.lie(replies["bank"])
        return replies


def signed(four: Faulty, **fields: Any) -> Callable[[bytes], bytes]:
    """The same answer with other fields, signed by the bank itself."""

    def lie(reply: bytes) -> bytes:
        received = read(reply, four.federation.members["bank"], *PARTY_MESSAGES)
        header = Header(**{name: getattr(received.envelope, name) for name in Header.model_fields})
        body: Body = received.body.model_copy(update=fields)
        return seal(header, body, four.service("bank").node.key)

    return lie


def ends(four: Faulty, liar: Lying, error: type[FedtagsError], match: str) -> None:
    """The run ends by this error, and at every party."""
    four.wrap = lambda _: liar
    with pytest.raises(error, match=match):
        four.run(FOUR)
    for party in ALL:
        assert four.service(party)._session is None
        assert not (four.federation.homes[party] / "reports" / "run-1.json").exists()


def test_a_signature_that_does_not_verify(four: Faulty) -> None:
    liar = Lying(four, "update", lambda reply: bytes(64) + reply[64:])
    ends(four, liar, SignatureError, "^bank: ")


def test_an_answer_of_an_earlier_round(four: Faulty) -> None:
    told: list[bytes] = []

    def earlier(reply: bytes) -> bytes:
        told.append(reply)
        return told[0]

    ends(four, Lying(four, "update", earlier), ProtocolError, "^bank: a message's")
    assert len(told) == 2


def test_bytes_that_are_no_ciphertext(four: Faulty) -> None:
    def garbage(reply: bytes) -> bytes:
        received = read(reply, four.federation.members["bank"], *PARTY_MESSAGES)
        length = received.envelope.attached_bytes
        return signed(four, ciphertexts=b"\xff" * length)(reply)

    ends(four, Lying(four, "update", garbage, honest=1), ProtocolError, "^bank: ")


def test_a_ledger_head_of_another_round(four: Faulty) -> None:
    heads: list[bytes] = []

    def kept(reply: bytes) -> bytes:
        received = read(reply, four.federation.members["bank"], *PARTY_MESSAGES)
        heads.append(received.body.model_dump()["ledger_head"])
        return signed(four, ledger_head=heads[0])(reply)

    told = "the ledger head of bank is not of this run and round"
    ends(four, Lying(four, "update", kept), ProtocolError, told)


def test_another_evaluation_than_the_rest_opened(four: Faulty) -> None:
    liar = Lying(four, "evaluation-opened", signed(four, opened=bytes(31) + b"\1"))
    ends(four, liar, IntegrityError, "bank than ecommerce, grocer, retailer opened another")


def test_another_evaluation_than_the_rest_tell(four: Faulty) -> None:
    four.wrap = lambda _: Lying(four, "receipt", signed(four, evaluation=(1,) * 40))
    with pytest.raises(IntegrityError, match=r"bank than ecommerce.* the run has no evaluation"):
        four.run(FOUR)


def test_more_rounds_than_there_were(four: Faulty) -> None:
    liar = Lying(four, "decision", signed(four, applied=1))
    ends(four, liar, ProtocolError, "bank claims a model of more rounds")


def test_more_rounds_than_there_were_when_it_comes_back(four: Faulty) -> None:
    liar = Lying(four, "decision", signed(four, applied=9), honest=1)
    faulty = FaultyChannel(liar, [Fault("bank", "train-round", 1)])
    four.wrap = lambda _: faulty
    with pytest.raises(ProtocolError, match="bank claims a model of more rounds"):
        four.run(FOUR)
