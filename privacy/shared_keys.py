"""What one member holds during an epoch: pairwise keys, the run key, and what follows from it.

Every use has a key of its own, derived by HKDF under a string that names it, from the run key and
the agreement hash: MAC, opening tags, model seal, seed seals, confirmations. Pairwise keys give the
masks, and the seal of the run key before. A failed check erases all keys before it raises, so
nobody gets a second attempt at one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from privacy import sum_mac
from privacy.ciphertexts import MODULUS, SUM_BYTES
from privacy.encryption import RunKey
from privacy.errors import IntegrityError, ProtocolError
from privacy.masking import SumLabel, derive, pairwise_mask, self_mask
from privacy.messages import canonical
from privacy.packing import DATA_SLOTS

SEED_BYTES = 32
_SALT_BYTES = 16
_NONCE = bytes(12)  # every sealing key is derived for one message and used once
_PURPOSES = ("mac", "opening", "model", "seed", "confirmation")


class SharedKeys:
    """One member's keys of one epoch. Make it with `KeyAgreement.complete`.

    Invariant: either all keys are here, or all are gone and every use raises ProtocolError; a
    (round, attempt, tensor) protects one payload at most. Residues are int64 in [0, t); k is the
    number of chunks of a vector.
    """

    def __init__(
        self,
        me: str,
        pairs: Mapping[str, bytes],
        run_key: RunKey,
        secret: bytes,
        agreement: bytes,
    ) -> None:
        """`pairs`: the pair key with every other member; `secret`: the run key's bytes as the lead
        sealed them, which all members hold alike."""
        self.me = me
        self.members = tuple(sorted({me, *pairs}))
        self._pairs = dict(pairs)
        self._run_key = run_key
        self._keys = {one: _purpose_key(secret, agreement, one) for one in _PURPOSES}
        self._protected: set[tuple[int, int, str]] = set()

    def protect(
        self, chunks: NDArray[np.int64], label: SumLabel, self_seed: bytes | None = None
    ) -> bytes:
        """Tag, mask and encrypt (k, DATA_SLOTS) residues: k * CIPHERTEXT_BYTES.

        Without `self_seed` the sum over all of `label.members` opens as it is, and anything else as
        uniform words; with it, only for whoever knows every participant's seed. Raises
        ProtocolError if `label` names others than members, not this one, or a sum that this member
        has protected a payload for.
        """
        tags = sum_mac.tags(self._key("mac"), label, self.me, _residues(chunks))
        self._check_label(label)
        claimed = (label.round, label.attempt, label.tensor)
        if claimed in self._protected:
            raise ProtocolError("this attempt of the round has protected a payload before")
        self._protected.add(claimed)
        tagged = np.concatenate([chunks, tags[:, np.newaxis]], axis=1)
        return self._run_key.encrypt(self._masked(tagged, label, self_seed))

    def _masked(
        self, tagged: NDArray[np.int64], label: SumLabel, self_seed: bytes | None
    ) -> Iterator[NDArray[np.int64]]:
        """Row by row, so that the next rows are masked while children encrypt."""
        for index, row in enumerate(tagged):
            row += pairwise_mask(self.me, self._pairs, label, index)
            if self_seed is not None:
                row += self_mask(self_seed, label, index)
            row %= MODULUS
            yield row

    def open_total(
        self,
        total: bytes,
        chunks: int,
        label: SumLabel,
        self_seeds: Mapping[str, bytes] | None = None,
    ) -> NDArray[np.int64]:
        """Decrypt and check the sum of what all of `label.members` protected under `label`:
        (chunks, DATA_SLOTS). `self_seeds`: every participant's, if they used one.

        Raises ProtocolError on a malformed sum. Raises IntegrityError, with all keys erased, if it
        is anything but that sum (`privacy.sum_mac`).
        """
        mac_key = self._key("mac")
        self._check_label(label)
        if len(total) != chunks * SUM_BYTES:
            raise ProtocolError("a sum does not have the expected number of ciphertexts")
        seeds = self_seeds or {}
        if seeds and set(seeds) != set(label.members):
            raise ProtocolError("self-mask seeds do not come from exactly the participants")
        opened = self._run_key.decrypt(total)
        for seed in seeds.values():
            for index, row in enumerate(opened):
                row -= self_mask(seed, label, index)
        opened %= MODULUS
        data, tag_sums = opened[:, :DATA_SLOTS], opened[:, DATA_SLOTS]
        if not sum_mac.holds(mac_key, label, data, tag_sums):
            self._fail("a sum is not that of exactly its participants' uploads")
        return data.copy()

    def opening_tag(self, label: SumLabel, opened: NDArray[np.int64]) -> bytes:
        """32 bytes that all who opened the same residues share, and nobody without the run key."""
        content = label.info("opened", 0) + opened.astype("<i8").tobytes()
        return hmac.digest(self._key("opening"), content, "sha256")

    def lost_tag(self, label: SumLabel) -> bytes:
        """In place of `opening_tag`, for a sum that nobody can ever open."""
        return hmac.digest(self._key("opening"), label.info("lost", 0), "sha256")

    def check_openings(self, mine: bytes, shown: Mapping[str, bytes], label: SumLabel) -> None:
        """Every participant's opening tag must be `mine`: else two members were shown two sums.

        Raises IntegrityError, with all keys erased, if one differs or is missing.
        """
        self._key("opening")
        if set(shown) != set(label.members) or not all(
            hmac.compare_digest(one, mine) for one in shown.values()
        ):
            self._fail("the members did not all open the same sum")

    def open_model(self, sealed: bytes) -> bytes:
        """The lead's model, sealed by `KeyAgreement.seal_model`. ProtocolError if altered."""
        key = _model_key(self._key("model"), sealed[:_SALT_BYTES])
        return open_sealed(key, sealed[_SALT_BYTES:], b"model")

    def seal_seed(self, label: SumLabel, seed: bytes) -> bytes:
        """This member's self-mask seed of `label` for the other members, 48 bytes.

        A session calls it for one attempt of a round at most.
        """
        return seal_to(self._seed_key(label, self.me), seed, self.me.encode())

    def open_seed(self, label: SumLabel, party: str, sealed: bytes) -> bytes:
        """The 32-byte seed that `party` revealed. Raises ProtocolError if altered."""
        seed = open_sealed(self._seed_key(label, party), sealed, party.encode())
        if len(seed) != SEED_BYTES:
            raise ProtocolError(f"a self-mask seed has {SEED_BYTES} bytes")
        return seed

    def confirmation(self, party: str, model_digest: bytes) -> bytes:
        """The tag by which `party` proves that it holds this epoch's run key, and this model."""
        content = canonical([party, model_digest])
        return hmac.digest(self._key("confirmation"), content, "sha256")

    def check_confirmations(self, tags: Mapping[str, bytes], model_digest: bytes) -> None:
        """Raises ProtocolError unless exactly the members confirmed; IntegrityError, with all keys
        erased, if one holds another run key or another model than this member."""
        self._key("confirmation")
        if set(tags) != set(self.members):
            raise ProtocolError("key confirmations do not come from exactly the members")
        for party, tag in tags.items():
            if not hmac.compare_digest(tag, self.confirmation(party, model_digest)):
                self._fail("a member holds another run key or another model")

    def erase(self) -> None:
        """End the run key's process and drop every key; idempotent."""
        self._run_key.erase()
        self._keys, self._pairs = {}, {}

    def _fail(self, what: str) -> None:
        self.erase()
        raise IntegrityError(f"{what}; the keys are erased and the run ends here")

    def _key(self, purpose: str) -> bytes:
        if not self._keys:
            raise ProtocolError("the keys of this epoch are erased")
        return self._keys[purpose]

    def _seed_key(self, label: SumLabel, party: str) -> bytes:
        return derive(self._key("seed"), label.info("seed", 0, party))

    def _check_label(self, label: SumLabel) -> None:
        if self.me not in label.members or not set(label.members) <= set(self.members):
            raise ProtocolError("the members of a sum are not all members of this key agreement")


def model_seal(secret: bytes, agreement: bytes, parameters: bytes) -> bytes:
    """A model for the members, from the run key's bytes: the lead has them before the epoch is
    complete. Random to anyone else; each call gives another sealing key."""
    salt = os.urandom(_SALT_BYTES)
    key = _model_key(_purpose_key(secret, agreement, "model"), salt)
    return salt + seal_to(key, parameters, b"model")


def seal_to(key: bytes, secret: bytes, associated: bytes) -> bytes:
    """ChaCha20-Poly1305 under a key that is derived for this one message."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, secret, associated)


def open_sealed(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Undo `seal_to`. Raises ProtocolError if the bytes are not what the key's holder sealed."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, associated)
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(
            "a sealed secret does not open: it was altered or is not for us"
        ) from error


def _model_key(key: bytes, salt: bytes) -> bytes:
    return derive(key, b"fedtags model seal 1\0" + salt)


def _purpose_key(secret: bytes, agreement: bytes, purpose: str) -> bytes:
    digest = hashlib.sha256(secret).digest()
    return derive(digest, f"fedtags {purpose} key 1\0".encode() + agreement)


def _residues(chunks: NDArray[np.int64]) -> NDArray[np.int64]:
    if chunks.ndim != 2 or chunks.shape[1] != DATA_SLOTS or not len(chunks):
        raise ValueError(f"a payload has shape (k, {DATA_SLOTS}); one more slot is the tag's")
    if chunks.min() < 0 or chunks.max() >= MODULUS:
        raise ValueError("a payload holds residues of the plain modulus only")
    return chunks
