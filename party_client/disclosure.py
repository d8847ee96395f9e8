"""What this party tells its coordinator about itself, and the thread that tells it.

`build` makes the statement (`privacy.disclosure`) of what policy.toml allows, from the ledger, the
settings, the waiting plans, the kept models and the egress log; it opens no source and no profile
store. `Teller` sends it when the node starts, after runs and decisions, and every 15 minutes. It
reads policy.toml anew each time, so a section that is turned off is not told again. Whatever goes
wrong there is a line in the log and another try later: no run waits for it or fails by it. At the
same times it has models deleted that are due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from models.tag_catalogue import load_catalogue
from models.tags import JOINT_TAGS
from party_client import egress
from party_client.approvals import Stand, one_plan
from party_client.federation import FEDERATION_NAME, load_federation
from party_client.model_shelf import open_shelf
from party_client.policy import Policy, load_policy
from party_client.provenance import code_version
from party_client.settings import PartySettings
from party_client.waiting_plans import WaitingPlans
from privacy.accounting import epsilon
from privacy.disclosure import (
    MAX_LIMITS,
    MAX_PLANS,
    MAX_RUNS,
    PATH,
    ApprovalsTold,
    BudgetTold,
    Disclosure,
    EgressTold,
    LimitTold,
    ModelTold,
    RunSent,
    StatusTold,
    TagTold,
)
from privacy.errors import ConfigError, FedtagsError, NotFound, PlanError, StoreError
from privacy.hosting.bundle import bundle_hash
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.ledger_decisions import check_signatures
from privacy.ledger_state import LedgerState

EVERY_S = 15 * 60.0
LOOK_EVERY_S = 5.0
# Several plans or decisions in a row are told together.
AT_LEAST_S = 10.0
FIRST_RETRY_S = 30.0

LOG = logging.getLogger(__name__)


def build(settings: PartySettings, policy: Policy, ledger: Ledger, *, sequence: int) -> Disclosure:
    """What would be told now. `sequence`: see `privacy.disclosure.Disclosure`.

    Raises ConfigError (not joined, a damaged file), LedgerError or StoreError.
    """
    told = policy.disclosure
    state = ledger.state()
    return Disclosure(
        format=1,
        federation=load_federation(settings.home).federation,
        party=settings.party,
        sequence=sequence,
        status=_status(settings, state) if told.status else None,
        budget=_budget(ledger, state, policy) if told.budget else None,
        limits=_limits(state, policy) if told.limits else None,
        approvals=_approvals(settings, state) if told.approvals else None,
        tags=_tags(settings) if told.tags else None,
        models=_models(settings) if told.models else None,
        egress=_egress(settings) if told.egress else None,
    )


def send(settings: PartySettings, disclosure: Disclosure) -> None:
    """Send it, signed; it is in the egress log before it leaves.

    Raises NotRunningError (no coordinator answers), CertificateError, LedgerError (the egress log
    cannot be written; nothing left), ConfigError, or what the coordinator answers.
    """
    # Brings in an HTTP client and TLS; `disclosure show` needs neither.
    from privacy.hosting.api_client import ApiClient
    from privacy.hosting.signed_requests import SignedRequestAuth

    url = load_federation(settings.home).coordinator.url
    try:
        ca_pem = settings.ca_certificate.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{settings.ca_certificate} cannot be read ({error.strerror}); restore it from backup"
        ) from error
    signing = SignedRequestAuth(settings.party, SigningKey.load(settings.identity_key))
    logged = egress.LoggedRequests(signing, egress.EgressLog(settings.egress))
    with ApiClient(url, ca_pem, logged) as api:
        api.call("POST", PATH, disclosure.model_dump(mode="json"))


def sequence_now(previous: int = 0) -> int:
    """The sequence of a disclosure that is made now, after one with `previous`."""
    return max(previous + 1, time.time_ns() // 1_000_000)


@dataclass
class _Told:
    """`at`: monotonic time of the last try; `seen`: what the files looked like then."""

    at: float
    seen: tuple[object, ...]
    failures: int = 0


class Teller:
    """Tells the coordinator what policy.toml allows, from a thread of its own.

    `busy`: whether a run is under way, during which changes of the ledger are not told one by one.
    """

    def __init__(
        self,
        settings: PartySettings,
        busy: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        deliver: Callable[[PartySettings, Disclosure], None] = send,
    ) -> None:
        self._settings, self._busy = settings, busy
        self._clock, self._deliver = clock, deliver
        self._ledger = Ledger(settings.ledger)
        self._last: _Told | None = None
        self._sequence = 0
        self._done = threading.Event()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell in the background until the block ends, which waits for no answer."""
        thread = threading.Thread(target=self._loop, name="disclosure", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(timeout=1.0)

    def look(self) -> bool:
        """Tell, if it is time to. True if the coordinator has taken it. Never raises."""
        now, seen = self._clock(), self._seen()
        if self._last is not None and not self._due(self._last, now, seen):
            return False
        failures = 0 if self._last is None else self._last.failures
        try:
            taken = self._tell()
            failures = 0
        except FedtagsError as error:
            LOG.warning("the coordinator was not told about this party: %s", str(error))
            taken, failures = False, failures + 1
        except Exception:
            LOG.exception("the coordinator was not told about this party, by an error of fedtags")
            taken, failures = False, failures + 1
        self._last = _Told(self._clock(), seen, failures)
        return taken

    def _due(self, last: _Told, now: float, seen: tuple[object, ...]) -> bool:
        passed = now - last.at
        if last.failures:
            return passed >= min(EVERY_S, FIRST_RETRY_S * 2.0 ** (min(last.failures, 16) - 1))
        changed = seen != last.seen and not self._busy()
        return passed >= EVERY_S or (changed and passed >= AT_LEAST_S)

    def _tell(self) -> bool:
        try:
            open_shelf(self._settings).listed()  # what is due goes, whatever is told
        except StoreError as error:
            LOG.warning("the kept models cannot be looked through: %s", str(error))
        if not (self._settings.home / FEDERATION_NAME).exists():
            return False
        policy = load_policy(self._settings.policy)
        if not policy.disclosure.told:
            return False
        self._sequence = sequence_now(self._sequence)
        made = build(self._settings, policy, self._ledger, sequence=self._sequence)
        self._deliver(self._settings, made)
        return True

    def _seen(self) -> tuple[object, ...]:
        settings = self._settings
        return tuple(map(_stamp, (settings.ledger, settings.policy, settings.waiting_plans)))

    def _loop(self) -> None:
        while not self._done.is_set():
            self.look()
            self._done.wait(LOOK_EVERY_S)


def _stamp(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return None


def _status(settings: PartySettings, state: LedgerState) -> StatusTold:
    return StatusTold(
        version=code_version(),
        bundle=bundle_hash(),
        public_size=settings.public_size,
        ledger_position=state.position,
        ledger_hash=state.newest,
    )


def _budget(ledger: Ledger, state: LedgerState, policy: Policy) -> BudgetTold:
    charged = state.charged()
    ran = {name: run for name, run in state.runs.items() if run.charged(state.now)}
    last = next(reversed(ran), None)
    left = None
    if last is not None:
        run = ran[last]
        # A sub-limit that is not told must not show in how many runs are left, either.
        limits = policy.budget.limits if policy.disclosure.limits else ()
        left = ledger.runs_left(run.mechanisms, purpose=run.purpose, plan=run.plan, limits=limits)
    return BudgetTold(
        epsilon=state.cap_epsilon,
        delta=state.cap_delta,
        spent=epsilon(charged, state.cap_delta),
        used=state.cap.used(charged),
        last_run=last,
        runs_left=left,
    )


def _limits(state: LedgerState, policy: Policy) -> tuple[LimitTold, ...]:
    return tuple(
        LimitTold(
            name=one.name,
            window=one.window,
            purpose=one.purpose,
            plan=one.plan,
            epsilon=one.epsilon,
            spent=epsilon(state.charged_under(one), state.cap_delta),
        )
        for one in policy.budget.limits[:MAX_LIMITS]
    )


def _approvals(settings: PartySettings, state: LedgerState) -> ApprovalsTold:
    check_signatures(SigningKey.load(settings.identity_key).public, state.decisions)
    folder = WaitingPlans(settings.waiting_plans)
    plans = []
    for digest in folder.digests():
        with suppress(ConfigError, PlanError, NotFound):  # `fedtags-party plan show` says why
            plans.append(one_plan(folder, state, digest))
    plans.sort(key=lambda one: one.asked, reverse=True)

    def stands(stand: Stand) -> tuple[str, ...]:
        return tuple(one.digest for one in plans if one.stand is stand)[:MAX_PLANS]

    return ApprovalsTold(waiting=stands(Stand.WAITING), approved=stands(Stand.APPROVED))


def _tags(settings: PartySettings) -> tuple[TagTold, ...]:
    own = load_catalogue(settings.catalogue)
    return tuple(TagTold(name=name, state=own[name].state) for name in JOINT_TAGS)


def _models(settings: PartySettings) -> tuple[ModelTold, ...]:
    return tuple(
        ModelTold(run=one.run, plan=one.plan_digest, model=one.model_digest)
        for one in open_shelf(settings).listed()[:MAX_RUNS]
    )


def _egress(settings: PartySettings) -> EgressTold:
    messages: dict[str | None, int] = {}
    sizes: dict[str | None, int] = {}
    for line in egress.everything(settings):
        messages[line.run] = messages.pop(line.run, 0) + 1  # the newest run last
        sizes[line.run] = sizes.get(line.run, 0) + line.bytes
    newest = [run for run in reversed(messages) if run is not None][:MAX_RUNS]
    return EgressTold(
        runs=tuple(RunSent(run=run, messages=messages[run], bytes=sizes[run]) for run in newest),
        other_messages=messages.get(None, 0),
        other_bytes=sizes.get(None, 0),
    )
