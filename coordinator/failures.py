"""Why a run ended early, in plain words: what each error means for a run, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """`cause`: what happened. `next_step`: what a person does about it."""

    cause: str
    next_step: str


_AGAIN = "Submit the plan again when that is done; what had begun stays spent at the parties."

_BY_ERROR: Mapping[str, Explanation] = {
    "RunStopped": Explanation(
        "Somebody stopped the run.",
        "Nothing needs mending. Rounds that had begun stay spent at the parties, the rest of what "
        "was reserved is free again. Submit the plan again if you want the model.",
    ),
    "CohortError": Explanation(
        "Too few parties took part: some refused or were lost, and the plan's minimum was not met.",
        "Look at each party's reason below. Ask its operator where the reason is not enough, or "
        f"lower cohort.minimum in the plan. {_AGAIN}",
    ),
    "PartyTimeout": Explanation(
        "A party did not answer in time, and the run could not go on without it.",
        "See whether that party's node is up. If its answers take long, raise "
        f"cohort.timeout_seconds in the plan. {_AGAIN}",
    ),
    "IntegrityError": Explanation(
        "A sum was altered on its way, or parties opened different ones. The run's keys are gone "
        "and nothing was published.",
        "Do not simply repeat it. Take the evidence pack, compare what the named parties hold, and "
        "find out which machine altered it.",
    ),
    "ProtocolError": Explanation(
        "A message was not what the protocol allows at its point: most often two versions of "
        "fedtags, or a damaged message.",
        f"Compare the bundle hashes of the parties with this coordinator's. {_AGAIN}",
    ),
    "SignatureError": Explanation(
        "A message was not signed by the key that is known for its sender.",
        "Have the named party compare fingerprints with you on another way before anything else.",
    ),
    "PlanError": Explanation(
        "The plan is not valid, or does not fit a party that it names.",
        "Correct the key that the message names and submit it again. Nothing was spent.",
    ),
    "PolicyRefusal": Explanation(
        "A party's own policy does not allow this plan.",
        "The reason code says which rule. Change the plan, or ask that party's operator.",
    ),
    "BudgetExceeded": Explanation(
        "A party's privacy budget has no room for this run.",
        "Ask for less epsilon, or leave that party out. A budget is for life: it does not refill.",
    ),
    "NotRunningError": Explanation(
        "The service that executes runs did not answer.",
        "See `fedtags-coordinator ready` and logs/superlink.log; start the coordinator again, then "
        "submit the plan again. Nothing was spent.",
    ),
    "StoreError": Explanation(
        "The coordinator's database could not be read or written.",
        f"Look at free disk space and at the database, and restore a backup if needed. {_AGAIN}",
    ),
    "RunError": Explanation(
        "The run could not start or ended early.",
        f"The message says why; logs/serverapp.log and logs/control-plane.log say more. {_AGAIN}",
    ),
    "DataError": Explanation(
        "A party's source could not be used for this plan.",
        "Ask the operator of the named party; the details are in that party's own log.",
    ),
    "LedgerError": Explanation(
        "A privacy ledger is damaged or was put back from a copy.",
        "The named party must restore its newest backup first. Do not repeat the run before.",
    ),
    "PrivacyError": Explanation(
        "The plan asks for something that the privacy mechanisms cannot give.",
        "Ask for another epsilon or delta and submit the plan again. Nothing was spent.",
    ),
    "CertificateError": Explanation(
        "A certificate is missing, expired or not the pinned one.",
        f"Renew or restore it. {_AGAIN}",
    ),
    "ConfigError": Explanation(
        "A setting of the coordinator is missing or wrong.",
        f"Correct the setting that the message names and start the coordinator again. {_AGAIN}",
    ),
}
_UNKNOWN = Explanation(
    "Something happened that this version has no words for.",
    f"The message and logs/serverapp.log say what is known. {_AGAIN}",
)

# All that `explain` can answer.
EXPLANATIONS: tuple[Explanation, ...] = (*_BY_ERROR.values(), _UNKNOWN)


def explain(error: str) -> Explanation:
    """What the error of this class name means for a run. A class without an entry of its own has
    its nearest ancestor's."""
    from privacy import errors

    kind = getattr(errors, error, None)
    if isinstance(kind, type):
        for one in kind.__mro__:
            if one.__name__ in _BY_ERROR:
                return _BY_ERROR[one.__name__]
    return _UNKNOWN
