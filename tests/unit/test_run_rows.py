import tracemalloc

import numpy as np
import pytest

from models.training import Rows
from party_client import run_rows
from party_client.run_rows import dataset_digest, split_in_place

KEY = bytes(32)
IDS = ["anna", "bert", "carl"]


def rows(seed: int = 0, n: int = 3, k: int = 4) -> Rows:
    rng = np.random.default_rng(seed)
    features = rng.random((n, k), dtype=np.float32)
    return Rows(features, rng.integers(0, 2, n).astype(np.float32))


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_split_keeps_every_row_once_and_in_order(
    block: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_rows, "_BLOCK_ROWS", block)
    whole, spare = rows(n=50), rows(n=50)
    aside = np.random.default_rng(1).random(50) < share
    training, held_out = split_in_place(spare, aside)
    for found, wanted in ((training, whole[~aside]), (held_out, whole[aside])):
        assert np.array_equal(found.features, wanted.features)
        assert np.array_equal(found.labels, wanted.labels)


def test_a_split_makes_no_second_copy_of_the_training_rows() -> None:
    whole = rows(n=400_000, k=10)
    aside = np.zeros(400_000, dtype=np.bool_)
    aside[::10] = True
    tracemalloc.start()
    training, _ = split_in_place(whole, aside)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.shares_memory(training.features, whole.features)
    assert peak < whole.features.nbytes / 2


def test_a_digest_is_of_ids_features_labels_and_key() -> None:
    digest = dataset_digest(KEY, IDS, rows())
    assert len(bytes.fromhex(digest)) == 32
    assert dataset_digest(KEY, list(IDS), rows()) == digest
    flipped, relabelled = rows(), rows()
    flipped.features[2, 3] = np.nextafter(flipped.features[2, 3], np.float32(2))
    relabelled.labels[0] = 1 - relabelled.labels[0]
    others = [
        dataset_digest(bytes([1]) * 32, IDS, rows()),
        dataset_digest(KEY, ["anna", "bertc", "arl"], rows()),
        dataset_digest(KEY, IDS[:2], rows()),
        dataset_digest(KEY, IDS, flipped),
        dataset_digest(KEY, IDS, relabelled),
    ]
    assert len({digest, *others}) == 6


def test_a_digest_copies_no_features() -> None:
    whole = rows(n=300_000, k=10)
    tracemalloc.start()
    dataset_digest(KEY, (str(one) for one in range(300_000)), whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < whole.features.nbytes / 10
