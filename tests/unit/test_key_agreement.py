"""The key agreement against a coordinator in the middle of it."""

from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.errors import IntegrityError, ProtocolError, SignatureError
from privacy.framing import body_of, read_statement, seal, statement_of
from privacy.identity import SigningKey
from privacy.key_agreement import (
    ENCAPSULATED_BYTES,
    ExchangeKeys,
    agreement_hash,
    lead_of,
    pair_key,
)
from privacy.messages import OFFER_BYTES, VERSION, Decision, Header
from tests.agreements import (
    ALL,
    DIGEST,
    EXCHANGE,
    LEAD,
    MEMBERS,
    OFFERS,
    Agree,
    Seals,
    added,
    agreements,
    sides,
    uploads,
)

MALLORY = ExchangeKeys.generate()
HALVES = {"x25519": slice(32), "ml-kem": slice(32, None)}


@pytest.fixture
def agree() -> Iterator[Agree]:
    with agreements() as complete:
        yield complete


def test_the_lead_is_the_lowest_name_of_those_that_are_furthest() -> None:
    assert lead_of({"retailer": 0, "bank": 0}) == "bank"
    assert lead_of({"bank": 2, "retailer": 3, "ecommerce": 3}) == "ecommerce"


def swapped(offer: bytes, part: slice) -> bytes:
    """`offer` with the attacker's own key in that part."""
    return b"".join(
        (MALLORY.offer if one == part else offer)[one] for one in (slice(32), slice(32, None))
    )


@pytest.mark.parametrize("part", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("victim", MEMBERS)
def test_an_offer_swapped_in_one_members_view_opens_no_run_key(
    victim: str, part: slice, agree: Agree
) -> None:
    """Either half is enough, whosever it is: another agreement, other keys."""
    misled = next(me for me in MEMBERS if me not in (victim, LEAD))
    view = {**OFFERS, victim: swapped(OFFERS[victim], part)}
    with pytest.raises(ProtocolError, match="does not open"):
        agree(views={misled: view})


@pytest.mark.parametrize("part", HALVES.values(), ids=HALVES)
def test_an_offer_swapped_in_all_other_views_opens_no_run_key(part: slice, agree: Agree) -> None:
    view = {**OFFERS, "retailer": swapped(OFFERS["retailer"], part)}
    with pytest.raises(ProtocolError, match="does not open"):
        agree(views={"bank": view, "ecommerce": view})


def test_our_own_offer_must_come_back_as_it_is() -> None:
    with pytest.raises(ProtocolError, match="this party and its cohort"):
        sides(views={"bank": {**OFFERS, "bank": MALLORY.offer}})


def test_an_attacker_who_answers_in_a_members_place_needs_that_members_signing_key() -> None:
    """What a full man in the middle must forge: the signed Decision with the offer in it."""
    retailer, mallory = SigningKey.generate(), SigningKey.generate()
    header = Header(
        version=VERSION, manifest=bytes(32), plan=bytes(32), run="run", epoch=1, round=0, attempt=1,
        sender="retailer", recipient="coordinator", sequence=1, previous=bytes(32),
    )  # fmt: skip
    said = Decision(
        accepted=True, reason="", public_size=900, offer=OFFERS["retailer"], applied=0,
        ledger_head=b"", known_heads={},
    )  # fmt: skip
    genuine = statement_of(seal(header, said, retailer))
    heard = read_statement(genuine, retailer.public, Decision)
    assert body_of(heard, Decision).offer == OFFERS["retailer"]
    forged = said.model_copy(update={"offer": MALLORY.offer})
    at = genuine.index(OFFERS["retailer"])
    for frame in (
        statement_of(seal(header, forged, mallory)),
        genuine[:at] + MALLORY.offer + genuine[at + OFFER_BYTES :],
    ):
        with pytest.raises(SignatureError):
            read_statement(frame, retailer.public, Decision)


def test_the_agreement_is_bound_to_everything_that_was_agreed() -> None:
    base = (bytes(32), bytes(32), "run", 1, OFFERS)
    others = [
        (b"m" * 32, *base[1:]),
        (base[0], b"p" * 32, *base[2:]),
        (*base[:2], "other", *base[3:]),
        (*base[:3], 2, OFFERS),
        (*base[:4], {**OFFERS, "bank": OFFERS["bank"] + b"\0"}),
        (*base[:4], {me: OFFERS[me] for me in MEMBERS[:2]}),
    ]
    assert len({agreement_hash(*one) for one in (base, *others)}) == len(others) + 1


def test_a_pair_key_is_bound_to_both_secrets_names_agreement_and_ciphertext() -> None:
    base = (b"x" * 32, b"k" * 32, b"c" * ENCAPSULATED_BYTES, b"a" * 32, ("bank", "retailer"))
    others = [
        (b"y" * 32, *base[1:]),
        (base[0], b"l" * 32, *base[2:]),
        (*base[:2], b"d" * ENCAPSULATED_BYTES, *base[3:]),
        (*base[:3], b"b" * 32, base[4]),
        (*base[:4], ("bank", "ecommerce")),
    ]
    assert len({pair_key(*one) for one in (base, *others)}) == len(others) + 1
    assert pair_key(*base[:4], ("retailer", "bank")) == pair_key(*base)


@pytest.mark.parametrize("part", HALVES.values(), ids=HALVES)
def test_a_copied_key_is_refused(part: slice) -> None:
    """A member who shows another's public key (either half of it) would share its keys."""
    copied = b"".join(
        OFFERS["ecommerce" if one == part else "retailer"][one]
        for one in (slice(32), slice(32, None))
    )
    with pytest.raises(ProtocolError, match="same exchange key"):
        sides(views={"bank": {**OFFERS, "retailer": copied}})


def test_unusable_offers_are_refused() -> None:
    for wrong in (b"", OFFERS["retailer"][:-1], OFFERS["retailer"] + b"\0"):
        with pytest.raises(ProtocolError, match="length"):
            sides(views={"bank": {**OFFERS, "retailer": wrong}})
    low_order = bytes(32) + OFFERS["retailer"][32:]
    with pytest.raises(ProtocolError, match="X25519"):
        sides(views={"bank": {**OFFERS, "retailer": low_order}})["bank"].seal()
    beyond = OFFERS["retailer"][:32] + b"\xff" * 1184
    with pytest.raises(ProtocolError, match="ML-KEM"):
        sides(views={"bank": {**OFFERS, "retailer": beyond}})["bank"].seal()


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def drop_run_key(seals: Seals) -> None:
    del seals["bank"].sealed["retailer"]


def run_key_from_another(seals: Seals) -> None:
    seals["ecommerce"].sealed["retailer"] = seals["bank"].sealed["retailer"]


def drop_ciphertext(seals: Seals) -> None:
    del seals["ecommerce"].encapsulated["retailer"]


def shorten_ciphertext(seals: Seals) -> None:
    seals["ecommerce"].encapsulated["retailer"] = bytes(ENCAPSULATED_BYTES - 1)


def drop_member(seals: Seals) -> None:
    del seals["ecommerce"]


@pytest.mark.parametrize(
    "bend",
    [drop_run_key, run_key_from_another, drop_ciphertext, shorten_ciphertext, drop_member],
)
def test_seals_that_are_not_exactly_the_members_are_refused(
    bend: Callable[[Seals], None], agree: Agree
) -> None:
    with pytest.raises(ProtocolError, match=r"seal|encapsulate"):
        agree(bend)


def test_an_altered_seal_or_the_leads_ciphertext_opens_no_run_key(
    agree: Agree,
) -> None:
    def seal_altered(seals: Seals) -> None:
        seals["bank"].sealed["retailer"] = flipped(seals["bank"].sealed["retailer"])

    def seals_exchanged(seals: Seals) -> None:
        shown = seals["bank"].sealed
        shown["retailer"], shown["ecommerce"] = shown["ecommerce"], shown["retailer"]

    def ciphertext_altered(seals: Seals) -> None:
        ours = seals["bank"].encapsulated
        ours["retailer"] = flipped(ours["retailer"])

    for bend in (seal_altered, seals_exchanged, ciphertext_altered):
        with pytest.raises(ProtocolError, match="does not open"):
            agree(bend)


def test_a_ciphertext_swapped_between_two_others_is_caught_at_the_first_sum(
    agree: Agree,
) -> None:
    """Their run key is right, so the confirmation holds; their masks do not cancel."""

    def swap(seals: Seals) -> None:
        offer = EXCHANGE["retailer"].ml_kem.public_key()
        seals["ecommerce"].encapsulated["retailer"] = offer.encapsulate()[1]

    keys = agree(swap)
    tags = {me: keys[me].confirmation(me, DIGEST) for me in MEMBERS}
    keys["bank"].check_confirmations(tags, DIGEST)
    total = added(*uploads(keys).values())
    for me in MEMBERS:
        with pytest.raises(IntegrityError, match="erased"):
            keys[me].open_total(total, 1, ALL)


def test_each_half_of_the_hybrid_alone_keeps_a_pair_apart_from_its_attacker() -> None:
    """Whoever knows one of the two shared secrets, and all that was sent, lacks the pair key."""
    x25519, ml_kem = X25519PrivateKey.generate(), MLKEM768PrivateKey.generate()
    mine = ExchangeKeys(x25519, ml_kem)
    assert mine.offer == (
        x25519.public_key().public_bytes_raw() + ml_kem.public_key().public_bytes_raw()
    )
    assert len(mine.offer) == OFFER_BYTES
    secret, ciphertext = ml_kem.public_key().encapsulate()
    shared = x25519.exchange(EXCHANGE["bank"].x25519.public_key())
    bound = (ciphertext, bytes(32), ("bank", "retailer"))
    real = pair_key(shared, secret, *bound)
    assert real not in (pair_key(shared, bytes(32), *bound), pair_key(bytes(32), secret, *bound))


def test_a_step_comes_once_and_nothing_after_erasing() -> None:
    ours = sides()
    seals = {me: one.seal() for me, one in ours.items()}
    with pytest.raises(ProtocolError, match="sealed before"):
        ours["bank"].seal()
    keys = ours["retailer"].complete(seals)
    with pytest.raises(ProtocolError, match="completed before"):
        ours["retailer"].complete(seals)
    for one in (*ours.values(), keys, keys):
        one.erase()
    for me in MEMBERS:
        with pytest.raises(ProtocolError):
            ours[me].complete(seals)


def test_keys_are_not_printed() -> None:
    assert repr(EXCHANGE["bank"]) == "ExchangeKeys()"
