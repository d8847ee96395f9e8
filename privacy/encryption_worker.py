"""The child process in which SEAL parses what others sent: `python -m privacy.encryption_worker`.

The one doorway to TenSEAL. A fault in it ends this process, never the service that started it
(`privacy.encryption`), and it runs under a limit of memory. With a key it encrypts and decrypts;
without one it adds. The key never leaves it, and is gone with it.

Requests come on stdin, replies go to stdout, both with exact lengths:

    request  operation (1) || ciphertexts (u32 BE) || parties (u32 BE) || payload
    reply    1 (done) || payload,  or  0 (refused)

    K  key      32 bytes of seed                       -> SHA-256 of the secret key that it makes
    E  encrypt  ciphertexts x 4096 x int64 LE          -> as many ciphertexts
    D  decrypt  that many sums                         -> ciphertexts x 4096 x int64 LE
    A  add      parties x ciphertexts, party by party  -> as many sums

It ends when stdin does, so it cannot outlive its parent. It writes nothing but replies.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import struct
import sys
from array import array
from typing import Any

from privacy.ciphertexts import (
    CHUNK_BYTES,
    CIPHERTEXT_BYTES,
    COEFFICIENT_BITS,
    MAX_PARTIES,
    MODULUS,
    SLOTS,
    SUM_BEGINNING,
    SUM_BYTES,
    check_ciphertexts,
    check_sums,
)
from privacy.errors import ProtocolError

REQUEST = struct.Struct(">cII")
DONE, REFUSED = b"\1", b"\0"
# The most ciphertexts of one request: some 0.5 MB there and back.
BATCH = 16
SEED_BYTES, DIGEST_BYTES = 32, 32
_WRONG_REQUEST = 3  # exit code
_SEAL_ERRORS = (ValueError, RuntimeError, IndexError, OverflowError)


class Scheme:
    """SEAL under the fixed parameters; nothing that is sent chooses one."""

    def __init__(self) -> None:
        # What `tenseal.sealapi` re-exports. Imported here, after the limits are set, and without
        # the package around it, which brings NumPy and costs 150 ms and 140 MB of address space.
        import _sealapi_cpp as seal

        self._seal = seal
        self._context = self._make_context(None)
        self._encoder = seal.BatchEncoder(self._context)
        self._evaluator = seal.Evaluator(self._context)
        self._encryptor: Any = None
        self._decryptor: Any = None
        # SEAL's bindings read and write files only; these have no name and lie in memory. What is
        # loaded in one process has one length, so that it is written in place.
        self._loaded, self._saved = os.memfd_create("loaded"), os.memfd_create("saved")
        self._loaded_path, self._saved_path = _path(self._loaded), _path(self._saved)

    def _make_context(self, seed: bytes | None) -> Any:
        """With a seed, all its randomness follows from that: for making a key only."""
        seal = self._seal
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(SLOTS)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(SLOTS, list(COEFFICIENT_BITS)))
        parameters.set_plain_modulus(MODULUS)
        if seed is not None:
            words = struct.unpack("<8Q", hashlib.sha512(b"fedtags run key 2\0" + seed).digest())
            parameters.set_random_generator(seal.Blake2xbPRNGFactory(list(words)))
        context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise RuntimeError("SEAL does not take the parameters")
        return context

    def take_key(self, seed: bytes) -> bytes:
        """Make the secret key that `seed` stands for; SHA-256 of it as SEAL saves it."""
        key = self._seal.KeyGenerator(self._make_context(seed)).secret_key()
        self._encryptor = self._seal.Encryptor(self._context, key)
        self._decryptor = self._seal.Decryptor(self._context, key)
        key.save(self._saved_path)
        saved = os.pread(self._saved, 1 << 20, 0)
        os.ftruncate(self._saved, 0)
        return hashlib.sha256(saved).digest()

    def encrypt(self, residues: memoryview) -> bytes:
        """One chunk; fresh randomness, seed-compressed."""
        plain = self._seal.Plaintext()
        self._encoder.encode(residues.cast("Q").tolist(), plain)
        while True:
            self._encryptor.encrypt_symmetric(plain).save(self._saved_path)
            saved = os.pread(self._saved, CIPHERTEXT_BYTES + 1, 0)
            try:
                check_ciphertexts(saved)
            except ProtocolError:  # Zstandard found something to shorten: by chance, never seen
                continue
            return saved

    def decrypt(self, total: memoryview) -> bytes:
        """One chunk of residues."""
        plain = self._seal.Plaintext()
        self._decryptor.decrypt(self._load(total), plain)
        residues = array("Q", self._encoder.decode_uint64(plain)).tobytes()
        if len(residues) != CHUNK_BYTES:
            raise RuntimeError("a ciphertext does not hold all slots")
        return residues

    def add(self, sums: list[Any], ciphertexts: memoryview) -> None:
        """Add one party's ciphertexts to `sums`, which are empty before the first party."""
        loaded = [
            self._load(ciphertexts[at : at + CIPHERTEXT_BYTES])
            for at in range(0, len(ciphertexts), CIPHERTEXT_BYTES)
        ]
        if not sums:
            sums.extend(loaded)
            return
        for total, ciphertext in zip(sums, loaded, strict=True):
            self._evaluator.add_inplace(total, ciphertext)

    def save(self, total: Any) -> bytes:
        """A sum, in the one form."""
        total.save(self._saved_path)
        saved = os.pread(self._saved, SUM_BYTES + 1, 0)
        if len(saved) == SUM_BYTES and saved.startswith(SUM_BEGINNING):
            return saved
        # Zstandard shortened it: a party sent something else than uniform coefficients.
        words = total.dyn_array()
        return SUM_BEGINNING + array("Q", (words[at] for at in range(2 * SLOTS))).tobytes()

    def _load(self, data: memoryview) -> Any:
        """SEAL validates every coefficient; the sizes are compared again, as the parent did."""
        os.pwrite(self._loaded, data, 0)
        loaded = self._seal.Ciphertext(self._context)
        loaded.load(self._context, self._loaded_path)
        if (
            loaded.size() != 2
            or loaded.poly_modulus_degree() != SLOTS
            or loaded.coeff_modulus_size() != 1
            or loaded.is_ntt_form()
            or loaded.parms_id() != self._context.first_parms_id()
            or loaded.dyn_array().size() != 2 * SLOTS
            or not self._seal.is_valid_for(loaded, self._context)
        ):
            raise ValueError("a ciphertext is not one of these parameters")
        return loaded


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


class Service:
    """Answers requests until stdin ends. A wrong request ends the process."""

    def __init__(self) -> None:
        self._scheme = Scheme()
        self._has_key = False

    def run(self) -> None:
        while header := sys.stdin.buffer.read(REQUEST.size):
            if len(header) != REQUEST.size:
                raise SystemExit(_WRONG_REQUEST)
            operation, count, parties = REQUEST.unpack(header)
            if not 0 < count <= BATCH or not 0 < parties <= MAX_PARTIES:
                raise SystemExit(_WRONG_REQUEST)
            match operation:
                case b"K" if not self._has_key:
                    reply = [self._scheme.take_key(_read(SEED_BYTES))]
                    self._has_key = True
                case b"E" if self._has_key:
                    reply = _each(self._scheme.encrypt, _read(count * CHUNK_BYTES), CHUNK_BYTES)
                case b"D" if self._has_key:
                    reply = self._decrypt(_read(count * SUM_BYTES))
                case b"A" if not self._has_key:
                    reply = self._add(count, parties)
                case _:
                    raise SystemExit(_WRONG_REQUEST)
            _write(b"".join([DONE, *reply]) if reply else REFUSED)

    def _decrypt(self, data: bytes) -> list[bytes]:
        try:
            check_sums(data)
            return _each(self._scheme.decrypt, data, SUM_BYTES)
        except (ProtocolError, *_SEAL_ERRORS):
            return []

    def _add(self, count: int, parties: int) -> list[bytes]:
        sums: list[Any] = []
        refused = False
        for _ in range(parties):
            data = _read(count * CIPHERTEXT_BYTES)  # to the end, even when it will be refused
            try:
                check_ciphertexts(data)
                if not refused:
                    self._scheme.add(sums, memoryview(data))
            except (ProtocolError, *_SEAL_ERRORS):
                refused = True
        return [] if refused else [self._scheme.save(one) for one in sums]


def _each(function: Any, data: bytes, size: int) -> list[bytes]:
    view = memoryview(data)
    return [function(view[at : at + size]) for at in range(0, len(data), size)]


def _read(count: int) -> bytes:
    """Exactly `count` bytes of stdin. Ends the process if that is over before."""
    data = sys.stdin.buffer.read(count)
    if len(data) != count:
        raise SystemExit(_WRONG_REQUEST)
    return data


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> None:
    """Set the limits, then serve. argv: bytes of address space."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file with a key in it
    Service().run()


if __name__ == "__main__":
    main()
