"""Everything that a person or a program may ask of a party's node, for the API and the console.

Every method takes the one who asks, checks the role, writes the access log and then acts. What
comes out are plain values; errors are FedtagsError, AccessDenied if the role may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from models.tag_catalogue import Catalogue, CatalogueTag
from party_client import approvals, desk_reports, tag_views
from party_client.approvals import Decided, WaitingPlan
from party_client.customer_ids import normalise
from party_client.desk_views import (
    PAGE_SIZE,
    AccessPage,
    BudgetView,
    CustomerView,
    EgressPage,
    HistoryView,
    LedgerPage,
    NewToken,
    OptOutView,
    Overview,
    ParticipationView,
    PersonRemoved,
    SegmentView,
)
from party_client.people import customer_hash
from party_client.plan_review import PlanReview, plan_review
from party_client.profile_store import ProfileStore, open_profile_store
from party_client.profile_tables import MAX_CUSTOMER_CHARACTERS
from party_client.quality import REPORT_FILE, QualityReport, load_report
from party_client.roles import Permission, Role, may, parse_role
from party_client.segment_counts import SegmentCounts
from party_client.segment_files import segment_pieces
from party_client.settings import PartySettings
from party_client.sources import open_source
from party_client.withholding import masked_id
from privacy.errors import AccessDenied, ConfigError, DataError
from privacy.hosting.access import DEFAULT_TOKEN_DAYS, Access, Person, Principal, Token
from privacy.hosting.access_log import AccessLog, read_page
from privacy.identity import SigningKey
from privacy.ledger import Ledger

_NOTHING = (
    "nothing may be read about this customer for this purpose: there is no valid tag, no consent "
    "to this purpose, or no such customer"
)


class Desk:
    """The desk of one party. Opened once a process by `open_desk`; safe between threads."""

    def __init__(
        self,
        settings: PartySettings,
        store: ProfileStore,
        catalogue: Catalogue,
        access: Access,
        log: AccessLog,
    ) -> None:
        self._settings = settings
        self._store = store
        self._catalogue = catalogue
        self._access = access
        self._log = log
        self._ledger = Ledger(settings.ledger)
        self._public = SigningKey.load(settings.identity_key).public
        self._counts = SegmentCounts(store, catalogue)
        self._purposes = sorted({name for tag in catalogue.tags for name in tag.purposes})

    # Customers -----------------------------------------------------------------------------------

    def customer(self, who: Principal, customer: str, purpose: str) -> CustomerView:
        """What may be read about one customer for `purpose` now."""
        known = self._allow_customer(who, Permission.READ_CUSTOMER, customer, purpose)
        profile = self._store.profile(known, purpose=purpose)
        masked = not may(who.role, Permission.SEE_FULL_ID)
        return CustomerView(
            customer=masked_id(known) if masked else known,
            masked=masked,
            purpose=purpose,
            tags=tuple(tag_views.tag_view(one, self._catalogue) for one in profile.tags),
            why=None if profile.tags else _NOTHING,
        )

    def history(self, who: Principal, customer: str, purpose: str) -> list[HistoryView]:
        """Earlier values of the tags that may be read about one customer for `purpose` now."""
        known = self._allow_customer(who, Permission.READ_CUSTOMER, customer, purpose)
        profile = self._store.profile(known, purpose=purpose)
        return [
            tag_views.history_view(record, self._catalogue)
            for tag in profile.tags
            for record in self._store.history(known, tag.tag, purpose=purpose)
        ]

    def purposes(self, who: Principal) -> list[str]:
        """Every purpose that a tag of the catalogue may be read for, sorted."""
        self._allow(who, Permission.SEE_CATALOGUE, quiet=True)
        return list(self._purposes)

    def segments(self, who: Principal, purpose: str) -> list[SegmentView]:
        """Every value of every tag that may be read for `purpose`, with its customers.

        Small counts are withheld. They may be up to half a minute old.
        """
        self._allow(who, Permission.COUNT_SEGMENTS, purpose=purpose)
        return self._counts.of(purpose)

    def export_segment(
        self,
        who: Principal,
        tag: str,
        value: str | None,
        purpose: str,
        form: str,
        since: str | None = None,
    ) -> Iterator[bytes]:
        """A file of the customers whose `tag` has `value`, in pieces. Refused before the first.

        `since`: the run of an earlier export; only what was set after it.
        """
        # What somebody types may be a customer's id: only names that are known are written down.
        detail = f"{tag}={value or '*'}" if self._known(tag, value) else ""
        self._allow(who, Permission.EXPORT, purpose=purpose, detail=detail)
        found = self._catalogue.tag(tag)
        if purpose not in found.purposes or not found.readable:
            raise ConfigError("tag: this tag may not be read for this purpose")
        if value is not None and not found.accepts(value):
            raise ConfigError("value: this tag has no such value")
        return segment_pieces(self._store.export(tag, value, purpose=purpose, since=since), form)

    def opt_out(self, who: Principal, customer: str, reason: str) -> OptOutView:
        """Honour a customer's opt-out: tags and history go, and stay gone. It does not unlearn."""
        known = self._allow_customer(who, Permission.OPT_OUT, customer)
        if not 0 < len(reason.strip()) <= 200:
            raise ConfigError("reason: 1 to 200 characters")
        done = self._store.opt_out(known, person=who.name, reason=reason.strip())
        self._counts.forget()
        return OptOutView(
            customer=done.customer,
            opted_out_at=done.at,
            repeated=done.repeated,
            models=tuple(
                ParticipationView(one.run_id, one.plan, one.model_digest, one.role, one.at)
                for one in done.models
            ),
        )

    def refresh_consents(self, who: Principal) -> None:
        """Read the source's consents anew; customers without any lose their tags."""
        self._allow(who, Permission.REFRESH_CONSENT)
        refresh_consents(self._settings, self._store)
        self._counts.forget()

    # Plans and budget ----------------------------------------------------------------------------

    def waiting(self, who: Principal) -> list[WaitingPlan]:
        """Plans that wait for a person, the newest question first."""
        self._allow(who, Permission.SEE_PLANS)
        return list(approvals.waiting(self._settings))

    def plans(self, who: Principal) -> list[WaitingPlan]:
        """Every plan that was kept for a person, those decided about too, newest first."""
        self._allow(who, Permission.SEE_PLANS)
        return list(approvals.kept_plans(self._settings))

    def plan(self, who: Principal, digest: str) -> PlanReview:
        """One plan with all that a person decides on."""
        self._allow(who, Permission.SEE_PLANS, detail=_digest(digest))
        return plan_review(self._settings, digest)

    def decide(
        self, who: Principal, digest: str, approve: bool, reason: str, seen: str | None = None
    ) -> Decided:
        """Approve or refuse; signed into the ledger. A person's, never an API token's.

        `seen`: the plan's, as it was looked at; DecidedMeanwhile if somebody decided since.
        """
        wanted = f"{'approve' if approve else 'refuse'} {_digest(digest)}"
        self._allow(who, Permission.DECIDE, detail=wanted, person=True)
        return approvals.decide(
            self._settings, digest, approve=approve, person=who.name, reason=reason, seen=seen
        )

    def budget(self, who: Principal) -> BudgetView:
        """The lifetime budget and the policy's sub-limits."""
        self._allow(who, Permission.SEE_BUDGET)
        return desk_reports.budget(self._settings, self._ledger)

    def ledger(self, who: Principal, page: int = 1) -> LedgerPage:
        """The ledger in words, newest entries first."""
        self._allow(who, Permission.SEE_LEDGER)
        return desk_reports.ledger_page(self._ledger, self._public, page)

    def egress(
        self, who: Principal, page: int = 1, kind: str | None = None, run: str | None = None
    ) -> EgressPage:
        """Messages that left, newest first; of one kind or run, if given."""
        self._allow(who, Permission.SEE_EGRESS)
        return desk_reports.egress_page(self._settings, page, kind, run)

    # The node ------------------------------------------------------------------------------------

    def overview(self, who: Principal) -> Overview:
        """How the node stands."""
        self._allow(who, Permission.SEE_NODE)
        return desk_reports.overview(self._settings, self._ledger, self._log)

    def quality(self, who: Principal) -> QualityReport | None:
        """The newest data-quality check; None before the first."""
        self._allow(who, Permission.SEE_QUALITY)
        return load_report(self._settings.quality / REPORT_FILE)

    def catalogue(self, who: Principal) -> list[CatalogueTag]:
        """Every entry of the catalogue."""
        self._allow(who, Permission.SEE_CATALOGUE)
        return list(self._catalogue.entries.values())

    # People --------------------------------------------------------------------------------------

    def people(self, who: Principal) -> list[Person]:
        """Everyone with a role, those who were removed included."""
        self._allow(who, Permission.SEE_PEOPLE)
        return self._access.people()

    def add_person(self, who: Principal, name: str, role: str, password: str | None) -> Person:
        """Add a person, or bring a removed one back. Without a password: no signing in."""
        self._allow(who, Permission.MANAGE_PEOPLE, detail=f"add {name} as {role}", person=True)
        return self._access.add_person(name, parse_role(role), password)

    def set_role(self, who: Principal, name: str, role: str) -> Person:
        """Change a person's role. Somebody stays admin."""
        self._allow(who, Permission.MANAGE_PEOPLE, detail=f"{name} becomes {role}", person=True)
        return self._access.set_role(name, parse_role(role), keep=Role.ADMIN)

    def set_password(self, who: Principal, name: str, password: str) -> None:
        """Give a person a new password, which ends that person's sessions."""
        self._allow(who, Permission.MANAGE_PEOPLE, detail=f"new password for {name}", person=True)
        self._access.set_password(name, password)

    def remove_person(self, who: Principal, name: str) -> PersonRemoved:
        """Remove a person. Somebody stays admin."""
        self._allow(who, Permission.MANAGE_PEOPLE, detail=f"remove {name}")
        return PersonRemoved(name, self._access.remove_person(name, keep=Role.ADMIN))

    def tokens(self, who: Principal) -> list[Token]:
        """Every API token, without its secret."""
        self._allow(who, Permission.SEE_PEOPLE)
        return self._access.tokens()

    def create_token(
        self, who: Principal, name: str, role: str, days: int = DEFAULT_TOKEN_DAYS
    ) -> NewToken:
        """A new API token; its secret is in this answer and nowhere else."""
        self._allow(
            who, Permission.MANAGE_PEOPLE, detail=f"create token {name} as {role}", person=True
        )
        token, secret = self._access.create_token(
            name, parse_role(role), created_by=who.name, days=days
        )
        return NewToken(token, secret)

    def revoke_token(self, who: Principal, name: str) -> Token:
        """Make an API token useless."""
        self._allow(who, Permission.MANAGE_PEOPLE, detail=f"revoke token {name}")
        return self._access.revoke_token(name)

    def access_log(self, who: Principal, page: int = 1) -> AccessPage:
        """Who looked at what, and did what, newest first."""
        self._allow(who, Permission.SEE_ACCESS)
        self._log.flush()
        lines, pages = read_page(self._settings.access_log, page, PAGE_SIZE)
        return AccessPage(tuple(lines), page, pages)

    # For the web process -------------------------------------------------------------------------

    @property
    def store(self) -> ProfileStore:
        """The profile store, for what runs in the background."""
        return self._store

    @property
    def access(self) -> Access:
        """People and tokens, for signing in."""
        return self._access

    def note_sign_in(self, who: Principal, what: str, allowed: bool) -> None:
        """Write into the access log that somebody signed in or out, or tried to."""
        self._log.record(who, what, allowed=allowed)

    def working(self) -> str | None:
        """None if the node can answer; what is wrong otherwise. Nobody's data are looked at."""
        if not self._log.working:
            return "the access log cannot be written"
        self._store.consent_known()
        self._access.tokens()
        return None

    def close(self) -> None:
        """Write what the access log holds and give up connections."""
        self._log.close()
        self._store.close()

    def _allow_customer(
        self, who: Principal, permission: Permission, customer: str, purpose: str | None = None
    ) -> str:
        """The customer's normalised id, if `who` may."""
        try:
            known = normalise(customer, self._settings.source)
            if len(known) > MAX_CUSTOMER_CHARACTERS:
                raise DataError(f"a customer id has at most {MAX_CUSTOMER_CHARACTERS} characters")
        except DataError:
            self._allow(who, permission, purpose=purpose)
            raise
        hashed = customer_hash(self._access, known)
        self._allow(who, permission, customer=hashed, purpose=purpose)
        return known

    def _allow(
        self,
        who: Principal,
        permission: Permission,
        *,
        customer: str | None = None,
        purpose: str | None = None,
        detail: str = "",
        person: bool = False,
        quiet: bool = False,
    ) -> None:
        """Note in the access log that `who` asks, and raise AccessDenied if the role may not.

        `quiet`: what every page asks for and says nothing of anybody; only a denial is noted.
        """
        allowed = may(who.role, permission) and not (person and who.kind != "person")
        sound = purpose is None or purpose in self._purposes
        if purpose is not None and sound:
            detail = f"{detail} for {purpose}".strip()
        if not (quiet and allowed):
            self._log.record(
                who, permission.value, allowed=allowed, customer=customer, detail=detail
            )
        if not may(who.role, permission):
            raise AccessDenied(f"role {who.role} may not {permission.value}")
        if not allowed:
            raise AccessDenied(
                "decisions about plans, people and new tokens are a person's: sign in; an API "
                "token cannot make them"
            )
        if not sound:
            raise ConfigError(f"purpose: one of {', '.join(self._purposes)}")

    def _known(self, tag: str, value: str | None) -> bool:
        found = self._catalogue.get(tag)
        return found is not None and (value is None or value in found.values)


def _digest(text: str) -> str:
    """A plan's digest for the access log; anything else somebody put in its place is left out."""
    return text if re.fullmatch("[0-9a-f]{64}", text) else "unknown"


def open_desk(settings: PartySettings, access: Access) -> Desk:
    """The desk over a party's home. Raises ConfigError, StoreError or LedgerError."""
    store = open_profile_store(settings)
    return Desk(settings, store, store.catalogue, access, AccessLog(settings.access_log))


def refresh_consents(settings: PartySettings, store: ProfileStore) -> None:
    """Read the source's consents anew into the store."""
    with open_source(settings.source, settings.home, opted_out=store.opted_out) as source:
        store.set_consents(source.consent_rows())
