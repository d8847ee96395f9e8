"""Everything that a person or a program may ask of the control plane, for API, commands and pages.

Every method takes the one who asks, checks the role, writes the audit log and then acts. What
comes out are plain values; errors are FedtagsError, AccessDenied if the role may not. A party
operator is told about the own party and the runs that it is a member of, and gets NotFound for the
rest. People, tokens and the audit log are in `coordinator.desk_people`, evidence packs and alerts
in `coordinator.desk_proofs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from coordinator import cursors, desk_parties, desk_plans, desk_runs
from coordinator.alerts import AlertStore
from coordinator.control import ControlPlane
from coordinator.desk_people import named_party, named_run
from coordinator.desk_proofs import AlertReader, LazyPacks, PackReader, ProofDesk
from coordinator.desk_store import DeskStore, RunFilter
from coordinator.desk_views import (
    MOST_COMPARED,
    PAGE_SIZE,
    BudgetView,
    Comparison,
    DryRun,
    FederationView,
    InvitationView,
    ModelPage,
    Overview,
    PartyDetail,
    PartyPage,
    PlanCheck,
    PlanDiff,
    RunDetail,
    RunPage,
    RunPlan,
    RunView,
    TagView,
)
from coordinator.disclosures import DisclosureStore, PartyDisclosure, models, receive
from coordinator.live import Event, Live, Position
from coordinator.member_store import Party
from coordinator.roles import Permission, may_see, party_of
from coordinator.settings import CoordinatorSettings
from models.plan import parse_plan, plan_digest
from privacy.disclosure import Disclosure
from privacy.errors import ConfigError, NotFound
from privacy.hosting.access import Access, Principal
from privacy.hosting.access_log import AccessLog
from privacy.hosting.enrolment import EnrolmentRequest, Invite, NamedKey
from privacy.hosting.gate import Sparingly
from privacy.identity import fingerprint

ENROL = "enrol"
LAST_RUNS = 10
_TAG_RUNS = 200


@dataclass(frozen=True)
class Stores:
    """What the desk reads besides the control plane's own stores."""

    runs: DeskStore
    told: DisclosureStore
    alerts: AlertReader
    packs: PackReader


class Desk(ProofDesk):
    """The desk of one control plane. Opened once a process by `open_desk`; safe between threads."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        control: ControlPlane,
        stores: Stores,
        access: Access,
        log: AccessLog,
    ) -> None:
        super().__init__(settings, access, log, stores.runs, stores.alerts, stores.packs)
        self.control = control
        self._told = stores.told
        self._nodes = desk_parties.NodeWatch(control.nodes)
        self._costs = desk_plans.Costs()
        self.live = Live(stores.runs, self._requesters)
        self._refused = Sparingly()

    # The federation ------------------------------------------------------------------------------

    def overview(self, who: Principal) -> Overview:
        """How the federation stands, for a first look."""
        only = self._allow(who, Permission.SEE_FEDERATION)
        known = self._known()
        members = [one for one in self.control.members.parties() if only in (None, one.name)]
        parties = tuple(desk_parties.party_view(party, known) for party in members)
        budgets = self._budgets(members, known.told)
        names = self._requesters()
        active = self._runs.active(only)
        last = self._runs.page(RunFilter(member=only), None, LAST_RUNS)
        rows = [*last, *([active] if active else [])]
        views = desk_runs.run_views(rows, names, self._runs, only)
        return Overview(
            federation=self.control.identity.federation,
            parties=parties,
            up=sum(one.state == "up" for one in parties),
            down=sum(one.state == "down" for one in parties),
            waiting_plans=sum(one.waiting_plans or 0 for one in parties),
            active_run=views[-1] if active else None,
            last_runs=views[: len(last)],
            alerts=self._open_alerts(only),
            budgets=tuple(budgets),
        )

    def federation(self, who: Principal) -> FederationView:
        """What this coordinator is."""
        from privacy.hosting.bundle import bundle_hash

        self._allow(who, Permission.SEE_FEDERATION)
        identity = self.control.identity
        return FederationView(
            name=identity.federation,
            public_key=identity.public_key.hex(),
            fingerprint=fingerprint(identity.public_key),
            control_url=identity.control_url,
            superlink=identity.superlink,
            requesters=tuple(
                NamedKey(name=one.name, public_key=one.public_key.hex())
                for one in self.control.members.requesters()
            ),
            parties=len(self.control.members.parties()),
            version=version("fedtags"),
            bundle=bundle_hash(),
        )

    def parties(
        self,
        who: Principal,
        *,
        removed: bool = False,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
    ) -> PartyPage:
        """Parties by name; with `removed`, those that were removed too."""
        only = self._allow(who, Permission.SEE_PARTIES)
        after = cursors.name_of(cursor)
        known = self._known()
        everyone = [
            party
            for party in self.control.members.everyone()
            if only in (None, party.name) and (removed or party.removed_at is None)
        ]
        rest = [party for party in everyone if after is None or party.name > after]
        shown = rest[:limit]
        more = cursors.of_name(shown[-1].name) if len(rest) > limit else None
        views = tuple(desk_parties.party_view(party, known) for party in shown)
        return PartyPage(parties=views, next=more)

    def party(self, who: Principal, name: str) -> PartyDetail:
        """One party with all that it tells."""
        only = self._allow(who, Permission.SEE_PARTIES, detail=named_party(name))
        found = next((one for one in self.control.members.everyone() if one.name == name), None)
        if found is None or only not in (None, name):
            raise NotFound("no party has this name; list them to see which there are")
        rows = self._runs.page(RunFilter(member=name), None, LAST_RUNS)
        return desk_parties.party_detail(
            found,
            self._known(),
            self._told.contradictions(name, proofs=False),
            self._told.budget_over_time(name),
            desk_runs.run_views(rows, self._requesters(), self._runs, only),
        )

    def invitations(self, who: Principal) -> list[InvitationView]:
        """Invitations that can still be used."""
        self._allow(who, Permission.INVITE_PARTY)
        return [
            InvitationView(party=one.party, created_at=one.created_at, expires_at=one.expires_at)
            for one in self.control.members.open_invitations()
        ]

    def invite(self, who: Principal, party: str) -> Invite:
        """A one-time invite; its token is in this answer and nowhere else."""
        self._allow(who, Permission.INVITE_PARTY, detail=named_party(party))
        return self.control.invite(party)

    def remove_party(self, who: Principal, name: str) -> PartyDetail:
        """No new run with it, its node is unregistered; its history stays."""
        self._allow(who, Permission.REMOVE_PARTY, detail=named_party(name))
        self.control.remove_party(name)
        self._nodes.forget()
        return self.party(who, name)

    # Plans ---------------------------------------------------------------------------------------

    def check_plan(self, who: Principal, source: bytes) -> PlanCheck:
        """Check a plan, and that enough of the parties it names are enrolled."""
        self._allow(who, Permission.CHECK_PLAN)
        plan = parse_plan(source)
        return PlanCheck(
            name=plan.name,
            digest=plan_digest(source),
            parties=tuple(self.control.cohort(plan)),
            minimum=plan.cohort.minimum,
        )

    def dry_run(self, who: Principal, source: bytes) -> DryRun:
        """What a run of the plan would cost each party, and which could take part. Nothing runs."""
        self._allow(who, Permission.CHECK_PLAN, detail="dry run")
        parties = self.control.members.parties()
        return desk_plans.dry_run(source, parties, self._known(), self._costs)

    def diff_plan(self, who: Principal, source: bytes, run_id: str) -> PlanDiff:
        """How a plan differs from a run's."""
        only = self._allow(who, Permission.CHECK_PLAN, detail=f"against {named_run(run_id)}")
        return desk_plans.plan_diff(self._runs.one(run_id, only)["plan_source"], source)

    # Runs ----------------------------------------------------------------------------------------

    def submit(
        self, who: Principal, run_id: str, source: bytes, requester: bytes, signature: bytes
    ) -> RunView:
        """Start a run of a signed plan; the same submission again answers with the run it made."""
        self._allow(who, Permission.START_RUN, detail=named_run(run_id))
        self.control.submit(run_id, source, requester, signature)
        return self._run_view(run_id)

    def runs(
        self,
        who: Principal,
        *,
        state: str | None = None,
        plan: str | None = None,
        party: str | None = None,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
    ) -> RunPage:
        """Runs, newest first; of one state, plan name or member, if given."""
        only = self._allow(who, Permission.SEE_RUNS)
        if party is not None and not may_see(who.role, party):
            return RunPage(runs=(), next=None)
        views, more = self._page(RunFilter(state, plan, party or only), cursor, limit, only)
        return RunPage(runs=views, next=more)

    def run(self, who: Principal, run_id: str) -> RunDetail:
        """One run with its rounds, parties and released figures."""
        only = self._allow(who, Permission.SEE_RUNS, detail=named_run(run_id))
        row = self._runs.one(run_id, only)
        return desk_runs.run_detail(row, self._requesters(), self._runs, self.control.runs, only)

    def follow(self, who: Principal, run_id: str) -> str | None:
        """Whether somebody may follow a run; returns the party that `follow_on` is told for."""
        only = self._allow(who, Permission.SEE_RUNS, detail=f"follow {named_run(run_id)}")
        self._runs.one(run_id, only)
        return only

    def follow_on(self, run_id: str, position: Position, only: str | None) -> list[Event]:
        """What happened in a run since `position`, for one whom `follow` let in."""
        return self.live.since(run_id, position, only)

    def plan_of(self, who: Principal, run_id: str) -> RunPlan:
        """The plan that a run follows, as it was signed."""
        only = self._allow(who, Permission.SEE_RUNS, detail=f"plan of {named_run(run_id)}")
        row = self._runs.one(run_id, only)
        return RunPlan(
            run_id=run_id,
            digest=row["plan_digest"],
            text=row["plan_source"].decode("utf-8", "replace"),
            requester=self._requesters().get(row["requester_public"], "unknown"),
            requester_public_key=row["requester_public"].hex(),
            requester_signature=row["requester_signature"].hex(),
        )

    def cost_of(self, who: Principal, run_id: str) -> DryRun:
        """What a run's plan costs each party that it may ask, at the sizes that they tell now; for
        a party operator the own party's."""
        only = self._allow(who, Permission.SEE_RUNS, detail=f"cost of {named_run(run_id)}")
        source = self._runs.one(run_id, only)["plan_source"]
        names = self.control.runs.members_of(run_id)
        members = [one for one in self.control.members.everyone() if one.name in names]
        return desk_plans.dry_run(source, members, self._known(), self._costs, only)

    def stop(self, who: Principal, run_id: str, force: bool = False) -> RunView:
        """Stop a run before its next exchange, or with `force` at once."""
        self._allow(who, Permission.CONTROL_RUN, detail=f"stop {named_run(run_id)}{' now' * force}")
        self._runs.head(run_id)
        self.control.stop(run_id, force)
        return self._run_view(run_id)

    def resume(self, who: Principal, run_id: str) -> RunView:
        """Let a paused run ask its absent parties now."""
        self._allow(who, Permission.CONTROL_RUN, detail=f"resume {named_run(run_id)}")
        self._runs.head(run_id)
        self.control.resume(run_id)
        return self._run_view(run_id)

    def compare(self, who: Principal, run_ids: Sequence[str]) -> Comparison:
        """Two to six runs side by side, in the order given."""
        detail = "compare " + " ".join(named_run(one) for one in run_ids[:MOST_COMPARED])
        only = self._allow(who, Permission.SEE_RUNS, detail=detail)
        if not 2 <= len(run_ids) <= MOST_COMPARED or len(set(run_ids)) != len(run_ids):
            raise ConfigError(f"run: 2 to {MOST_COMPARED} different runs to compare")
        rows = [self._runs.one(run_id, only) for run_id in run_ids]
        views = desk_runs.run_views(rows, self._requesters(), self._runs, only)
        return Comparison(runs=desk_runs.compared(views, self._runs, only))

    def models(
        self,
        who: Principal,
        *,
        plan: str | None = None,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
    ) -> ModelPage:
        """What finished runs made, newest first: versions, digests, lineage."""
        only = self._allow(who, Permission.SEE_MODELS)
        views, more = self._page(RunFilter("finished", plan, only), cursor, limit, only)
        held = {one.run: one.holders for one in models(self._told.newest())}
        return ModelPage(models=desk_runs.model_views(views, self._runs, held), next=more)

    # What parties tell ---------------------------------------------------------------------------

    def budgets(self, who: Principal) -> list[BudgetView]:
        """Every budget that a party tells, by party."""
        only = self._allow(who, Permission.SEE_BUDGETS)
        members = [one for one in self.control.members.parties() if only in (None, one.name)]
        return self._budgets(members, self._told.newest())

    def tags(self, who: Principal) -> list[TagView]:
        """Joint tags by name, with their state at each party that tells it."""
        only = self._allow(who, Permission.SEE_TAGS)
        told = {name: one for name, one in self._told.newest().items() if only in (None, name)}
        return desk_parties.tag_views(told, self._runs.finished_sources(_TAG_RUNS, only))

    # For parties' nodes, which sign what they ask ------------------------------------------------

    def enrol(self, request: EnrolmentRequest, address: str) -> None:
        """Enrol a party whose request's signature was verified, with its one-time token."""
        who = Principal(request.party, "party", "token", address)
        try:
            self.control.enrol(request)
        except ConfigError:
            if self._refused.first(address):
                self._log.record(who, ENROL, allowed=False)
            raise
        self._log.record(who, ENROL, allowed=True)
        self._nodes.forget()

    def take_in(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Disclosure:
        """What a party tells of itself. Raises SignatureError or ProtocolError."""

        def key_of(name: str) -> bytes | None:
            party = self.control.members.party(name)
            return None if party is None else party.public_key

        return receive(
            self._told,
            federation=self.control.identity.federation,
            key_of=key_of,
            method=method,
            path=path,
            headers=headers,
            body=body,
        )

    def missing(self) -> list[str]:
        """What keeps the control plane from its work; nothing about anybody is told."""
        fault = self.working()
        self._runs.active()
        found = [] if fault is None else [fault]
        return found if self._nodes.nodes() is not None else [*found, "the SuperLink"]

    # What several methods do ---------------------------------------------------------------------

    def _known(self) -> desk_parties.Known:
        return desk_parties.Known(self._nodes.nodes(), self._told.newest())

    def _requesters(self) -> Mapping[bytes, str]:
        return {one.public_key: one.name for one in self.control.members.requesters()}

    def _run_view(self, run_id: str) -> RunView:
        row = self._runs.head(run_id)
        return desk_runs.run_views([row], self._requesters(), self._runs, None)[0]

    def _page(
        self, which: RunFilter, cursor: str | None, limit: int, only: str | None
    ) -> tuple[tuple[RunView, ...], str | None]:
        rows = self._runs.page(which, cursors.place_of(cursor), limit + 1)
        shown = rows[:limit]
        last = shown[-1] if len(rows) > limit else None
        more = None if last is None else cursors.of_place(last["created_at"], last["run_id"])
        return desk_runs.run_views(shown, self._requesters(), self._runs, only), more

    def _budgets(
        self, members: Sequence[Party], told: Mapping[str, PartyDisclosure]
    ) -> list[BudgetView]:
        doubts = self._told.contradictions(proofs=False)
        views = [
            desk_parties.budget_view(told[one.name], doubts) for one in members if one.name in told
        ]
        return [one for one in views if one is not None]

    def _allow(
        self, who: Principal, permission: Permission, *, detail: str = "", person: bool = False
    ) -> str | None:
        self._permit(who, permission, detail=detail, person=person)
        return party_of(who.role)

    def close(self) -> None:
        """Write what the audit log holds and give up connections."""
        super().close()
        self._runs.close()
        self._told.close()
        self._alerts.close()
        self._packs.close()


def open_desk(
    settings: CoordinatorSettings, control: ControlPlane, access: Access, log: AccessLog
) -> Desk:
    """The desk over a home folder. Raises StoreError."""
    url = settings.database_url
    stores = Stores(DeskStore(url), DisclosureStore(url), AlertStore(url), LazyPacks(settings))
    return Desk(settings, control, stores, access, log)
