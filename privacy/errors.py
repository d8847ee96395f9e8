"""The error tree of fedtags. Every error that leaves a public function is one of these.

FedtagsError (1)
├── ConfigError (10)            a file, setting or command-line value is missing or wrong
│   ├── PortInUseError (17)
│   └── CertificateError (18)
├── PlanError (11)              the plan is not valid
├── DataError (19)              a source, column, table or label cannot be used
├── PrivacyError (20)           a mechanism or an accounting request is outside its domain
│   ├── PolicyRefusal (12)      the party's own policy says no
│   ├── BudgetExceeded (13)     the ledger has no room for the spend
│   ├── LedgerError (21)        the ledger is corrupt, cut or cannot be written
│   └── AuditFailed (27)        an audit refuted a claimed epsilon
├── ProtocolError (22)          a message is not what the protocol allows at this point
│   └── SignatureError (23)
├── IntegrityError (28)         a sum was altered, or members opened different ones; keys are erased
├── RunError                    a run cannot start or has ended early
│   ├── CohortError (14)        fewer parties than the plan's minimum, or a party that refused
│   ├── PartyTimeout (15)       a party did not answer in time
│   ├── RunActiveError (16)     another run is active in this federation
│   ├── RunStopped (24)         an operator stopped the run
│   └── RunInterrupted          what conducts a run must end, and not the run
├── NotRunningError (25)        the service that was asked is not running
├── StoreError (26)             the profile store or the run store cannot do what was asked
├── EvidenceError (34)          an evidence pack is not what was signed; the part is named
├── DecidedMeanwhile (33)       somebody else decided about this plan since it was looked at
└── AccessError                 somebody may not have what they asked a service for
    ├── NotSignedIn (29)        no valid API token, session or password came with the request
    ├── AccessDenied (30)       the role of a person or token does not allow it
    ├── NotFound (31)           what was asked for does not exist
    └── RateLimited (32)        too many attempts; wait

The number is the exit code of every fedtags command that ends with that error; 0 is success, 2 a
wrong command line, 130 an interrupt (Ctrl-C). Codes are stable: none is ever given a new meaning.

A message names the field, the value's kind and the bound, and says what to do. It never holds a
customer's data, a key or a count of customers.
"""

from __future__ import annotations

from typing import ClassVar


class FedtagsError(Exception):
    """Base of all fedtags errors."""

    exit_code: ClassVar[int] = 1


class ConfigError(FedtagsError):
    """A file, setting or command-line value is missing or wrong."""

    exit_code = 10


class PlanError(FedtagsError):
    """The plan is not valid."""

    exit_code = 11


class PrivacyError(FedtagsError):
    """A mechanism or an accounting request is outside its domain."""

    exit_code = 20


class PolicyRefusal(PrivacyError):
    """The party's own policy says no. `reason` is one of the public reason codes."""

    exit_code = 12

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BudgetExceeded(PrivacyError):
    """The ledger has no room for the spend."""

    exit_code = 13


class RunError(FedtagsError):
    """A run cannot start or has ended early."""


class CohortError(RunError):
    """Fewer parties than the plan's minimum, or a party that refused."""

    exit_code = 14


class PartyTimeout(RunError):
    """A party did not answer in time."""

    exit_code = 15


class RunActiveError(RunError):
    """Another run is active in this federation."""

    exit_code = 16


class PortInUseError(ConfigError):
    """A port that a service needs is taken."""

    exit_code = 17


class CertificateError(ConfigError):
    """A certificate is missing, expired or not the pinned one."""

    exit_code = 18


class DataError(FedtagsError):
    """A source, column, table or label cannot be used."""

    exit_code = 19


class LedgerError(PrivacyError):
    """The ledger is corrupt, cut or cannot be written."""

    exit_code = 21


class ProtocolError(FedtagsError):
    """A message is not what the protocol allows at this point."""

    exit_code = 22


class SignatureError(ProtocolError):
    """A signature does not verify under the pinned key."""

    exit_code = 23


class IntegrityError(FedtagsError):
    """A sum was altered on its way, or members opened different ones. The run's keys are erased."""

    exit_code = 28


class RunStopped(RunError):
    """An operator stopped the run."""

    exit_code = 24


class NotRunningError(FedtagsError):
    """The service that was asked is not running."""

    exit_code = 25


class StoreError(FedtagsError):
    """The profile store or the run store cannot do what was asked."""

    exit_code = 26


class AuditFailed(PrivacyError):
    """An audit refuted a claimed epsilon."""

    exit_code = 27


class DecidedMeanwhile(FedtagsError):
    """Somebody else decided about this plan since it was looked at; nothing was changed."""

    exit_code = 33


class AccessError(FedtagsError):
    """Somebody may not have what they asked a service for."""


class NotSignedIn(AccessError):
    """No valid API token, session or password came with the request."""

    exit_code = 29


class AccessDenied(AccessError):
    """The role of a person or token does not allow it."""

    exit_code = 30


class NotFound(AccessError):
    """What was asked for does not exist."""

    exit_code = 31


class RateLimited(AccessError):
    """Too many attempts; wait."""

    exit_code = 32


class EvidenceError(FedtagsError):
    """An evidence pack is not what was signed, or not of this federation. `part` says where."""

    exit_code = 34

    def __init__(self, part: str, message: str) -> None:
        super().__init__(f"{part}: {message}")
        self.part = part


class RunInterrupted(RunError):
    """What conducts a run must end, and not the run: it is taken up again where it was."""
