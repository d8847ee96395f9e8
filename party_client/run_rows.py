"""From a source's examples to the rows that a run may use, and how a ledger names them."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from models.training import Rows

_BLOCK_ROWS = 65_536
_LENGTH = struct.Struct(">Q")


def split_in_place(rows: Rows, aside: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """The training rows, in their order, and the held-out rows, for which `aside` (n,) is True.

    `rows.features` is used up: the training rows move to its front, block by block, so that no
    second copy of them is ever in memory. Nobody may read `rows` afterwards.
    """
    features = rows.features
    held_out = Rows(features[aside], rows.labels[aside])
    end = 0
    for start in range(0, len(features), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        kept = features[block][~aside[block]]
        features[end : end + len(kept)] = kept
        end += len(kept)
    return Rows(features[:end], rows.labels[~aside]), held_out


def dataset_digest(local_key: bytes, customer_ids: Iterable[str], rows: Rows) -> str:
    """HMAC-SHA256 (hexadecimal) of the ids, features and labels under the party's local key.

    Only the party can tell two data sets apart by it. Read as a stream: nothing is copied.
    """
    mac = hmac.new(local_key, b"fedtags dataset 1\0", hashlib.sha256)
    for one in customer_ids:
        encoded = one.encode()
        mac.update(_LENGTH.pack(len(encoded)) + encoded)
    for array in (rows.features, rows.labels):
        mac.update(_LENGTH.pack(array.nbytes))
        mac.update(np.ascontiguousarray(array, dtype="<f4").data.cast("B"))
    return mac.hexdigest()
