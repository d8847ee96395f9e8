"""What an intent in the ledger says of how its mechanism ran; each name stands beside its code."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from models.evaluation import HISTOGRAM
from party_client.admission import Admission
from privacy.ledger import Provenance
from privacy.mechanism import Gaussian, SampledGaussian
from privacy.randomness import ALGORITHM

COUNTING = "number of rows"  # what the ledger calls `models.training.noised_size`


def training_provenance(admission: Admission, cohort: Iterable[str]) -> Provenance:
    """Of a round of local training. Its sum is opened by the cohort."""
    return Provenance(
        family=admission.plan.model.family,
        engine=admission.plan.training.engine,
        dataset=admission.training_digest,
        sampler=SampledGaussian.sampler,
        rng=ALGORITHM,
        code_version=code_version(),
        recipients=tuple(sorted(cohort)),
    )


def evaluation_provenance(admission: Admission, cohort: Iterable[str]) -> Provenance:
    """Of the evaluation: counts of held-out rows, opened by the cohort and told the coordinator."""
    return Provenance(
        family=admission.plan.model.family,
        engine=HISTOGRAM,
        dataset=admission.held_out_digest,
        sampler=Gaussian.sampler,
        rng=ALGORITHM,
        code_version=code_version(),
        recipients=tuple(sorted(cohort)),
    )


def size_provenance(admission: Admission, cohort: Iterable[str]) -> Provenance:
    """Of the noised number of training rows. Its sum is opened by the cohort."""
    return Provenance(
        family=admission.plan.model.family,
        engine=COUNTING,
        dataset=admission.training_digest,
        sampler=Gaussian.sampler,
        rng=ALGORITHM,
        code_version=code_version(),
        recipients=tuple(sorted(cohort)),
    )


def code_version() -> str:
    """The installed version of fedtags."""
    try:
        return version("fedtags")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "source tree"
