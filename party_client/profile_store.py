"""One party's profile store: the tags of its own customers, with provenance and history.

Everything here stays inside the party. What a publication, a change of consent or an opt-out writes
appears together or not at all: each is one transaction. SQLite, PostgreSQL, MariaDB and MySQL are
served by the same expressions; SQLite is the embedded default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from models.tag_catalogue import Catalogue, load_catalogue
from party_client import opt_out, outbox, profile_consent, profile_reading, profile_writing
from party_client.consent import ConsentRow
from party_client.profile_database import (
    open_database,
    snapshot,
    store_url,
    taking_turns,
    was_sealed,
)
from party_client.profile_lookup import Lookups
from party_client.profile_records import (
    Event,
    Kind,
    OptOut,
    Participation,
    Profile,
    Provenance,
    Publication,
    Published,
    Role,
    SegmentCount,
    TagBatch,
    TagRecord,
)
from party_client.profile_tables import MAX_CUSTOMER_CHARACTERS
from party_client.settings import PartySettings
from privacy.errors import StoreError
from privacy.hosting.database import reading, store_errors
from privacy.hosting.sealing import Sealing
from privacy.identity import obtain_secret

__all__ = [
    "Event",
    "Kind",
    "OptOut",
    "Participation",
    "Profile",
    "ProfileStore",
    "Provenance",
    "Publication",
    "Published",
    "Role",
    "SegmentCount",
    "TagBatch",
    "TagRecord",
    "known_opt_outs",
    "open_profile_store",
]


def open_profile_store(settings: PartySettings, catalogue: Catalogue | None = None) -> ProfileStore:
    """The store that party.toml names; its catalogue is the party's own unless one is given.

    Raises ConfigError for settings that cannot be used and StoreError for a database that cannot be
    opened, or whose secret keys/store.key is not.
    """
    url = store_url(settings)
    if not settings.store_key.exists() and was_sealed(url):
        raise StoreError(
            f"{settings.store_key} is missing, and the profile store holds what was sealed with "
            "it: restore it from the same backup; without it no customer can be found there"
        )
    secret = obtain_secret(settings.store_key)
    return ProfileStore(
        url,
        Sealing(secret, settings.profile_store.cipher),
        catalogue or load_catalogue(settings.catalogue),
        events=settings.webhook is not None,
    )


def known_opt_outs(settings: PartySettings) -> frozenset[str]:
    """Every customer who has opted out. Where there is no profile store yet, none is made."""
    if not was_sealed(store_url(settings)):
        return frozenset()
    with closing(open_profile_store(settings)) as store:
        return store.opted_out()


class ProfileStore:
    """Tags by customer, unique on (customer, tag).

    Creates or upgrades its database when opened. A new SQLite file is readable by its owner only.
    `events`: changes are noted for a webhook. `now` is always a moment with its zone; the default
    is the clock. Every error is a StoreError (ConfigError for a URL that cannot be used) and holds
    no customer's data.
    """

    def __init__(
        self, url: str, sealing: Sealing, catalogue: Catalogue, *, events: bool = False
    ) -> None:
        self.catalogue = catalogue
        self._events = events
        self._index = sealing.index("customers")
        self._customer = sealing.column("customers", "sealed")
        self._opted_out = sealing.column("opt_outs", "sealed")
        self._reason = sealing.column("opt_outs", "sealed_reason")
        self._event = sealing.column("outbox", "sealed_customer")
        self._lookups = Lookups(self._names)
        self._engine = open_database(url, sealing)

    def close(self) -> None:
        """Give up all connections."""
        self._engine.dispose()

    # Writing -------------------------------------------------------------------------------------

    def publish(self, publication: Publication, batches: Iterable[TagBatch]) -> Published:
        """Write one run's tags, all or none; what they change goes to the history.

        Batches are read once. Customers who opted out are left out, and tags of those who consent
        to none of the tag's purposes; how many is for this party only. A value of None removes the
        tag. Publishing a run a second time changes nothing, so it may be repeated after a crash;
        under another plan or model it is an error. Nothing is written before consent is known
        (`set_consents`).
        """
        with taking_turns(self._engine) as connection:
            if profile_writing.already_published(connection, publication):
                return Published(0, 0, 0, ())
            done = profile_writing.write_publication(
                connection,
                publication,
                batches,
                self.catalogue,
                profile_consent.known_state(connection),
                self._index,
                self._customer,
            )
            data = {"run_id": publication.run_id, "kind": publication.kind}
            changed = data | {"tags": sorted(done.tags)}
            self._note(connection, outbox.TAGS_CHANGED, changed, publication.published_at)
        return done

    def set_consents(
        self, rows: Iterable[ConsentRow] | None, *, now: datetime | None = None
    ) -> None:
        """Take over the source's state of consent as a whole; None: it asserts everyone's.

        In the same transaction, customers lose the tags, with their history, to none of whose
        purposes they consent any more.
        """
        moment = _moment(now)
        with taking_turns(self._engine) as connection:
            state = profile_consent.replace_consents(connection, self._index, rows, moment)
            tags = {
                number: self.catalogue[name]
                for name, number in self._lookups.tag_ids(connection).items()
                if name in self.catalogue
            }
            groups = profile_writing.tags_by_purposes(tags)
            if profile_consent.remove_unconsented(connection, state, groups, moment):
                self._note(connection, outbox.CONSENT_CHANGED, {"receipt": state.receipt}, moment)

    def opt_out(
        self, customer: str, *, person: str, reason: str, now: datetime | None = None
    ) -> OptOut:
        """Honour a customer's opt-out: tags, history and the entry in `consents` go, a tombstone
        stays, and no later import or publication brings them back.

        This does not unlearn: the models that the customer took part in are returned, unchanged.
        """
        moment = _moment(now)
        with taking_turns(self._engine) as connection:
            done = opt_out.record_opt_out(
                connection,
                self._key(customer),
                customer,
                person,
                self._opted_out,
                self._reason,
                reason,
                moment,
            )
            if not done.repeated and self._events:
                outbox.add_event(
                    connection, outbox.CUSTOMER_OPTED_OUT, {}, moment, (self._event, customer)
                )
        return done

    def record_participation(
        self,
        run_id: str,
        plan_name: str,
        plan_digest: str,
        *,
        trained: Iterable[str],
        evaluated: Iterable[str],
    ) -> None:
        """Note who takes part in a run; before its first draw, and again without harm."""
        plan, now = (plan_name, plan_digest), _moment(None)
        roles: tuple[tuple[Role, Iterable[str]], ...] = (
            ("trained", trained),
            ("evaluated", evaluated),
        )
        with store_errors(), self._engine.begin() as connection:
            for role, members in roles:
                opt_out.record_participation(
                    connection, self._index, run_id, plan, role, members, now
                )

    def name_model(self, run_id: str, model_digest: str) -> None:
        """Say which model (SHA-256 in hex) a run ended with."""
        with store_errors(), self._engine.begin() as connection:
            opt_out.name_model(connection, run_id, model_digest)

    # Reading -------------------------------------------------------------------------------------

    def consent_known(self) -> bool:
        """Whether consent was ever taken over from the source; nothing can be read before."""
        with store_errors(), reading(self._engine) as connection:
            return profile_consent.current_state(connection) is not None

    def profile(self, customer: str, *, purpose: str, now: datetime | None = None) -> Profile:
        """All tags of one customer that may be read for `purpose` now, by name."""
        with store_errors(), reading(self._engine) as connection:
            return self._lookups.profile(
                connection, self._key(customer), customer, purpose, _moment(now)
            )

    def history(
        self, customer: str, tag: str, *, purpose: str, now: datetime | None = None
    ) -> list[TagRecord]:
        """What a customer's tag was before, the newest first; empty where it may not be read.

        Expired values are history, too, and are shown.
        """
        key, moment = self._key(customer), _moment(now)
        with store_errors(), snapshot(self._engine) as connection:
            known = profile_reading.standing(connection, key, purpose, moment)
            number = self._readable_tag(connection, tag, purpose)
            if number is None or not known.consent or known.opted_out:
                return []
            rows = profile_reading.earlier_tags(connection, key, number)
        return [profile_reading.record(row, tag, customer) for row in rows]

    def segment(
        self, tag: str, value: str | None, *, purpose: str, now: datetime | None = None
    ) -> int:
        """How many customers have this tag (and this `value`), exactly: for this party only."""
        with store_errors(), snapshot(self._engine) as connection:
            state = profile_consent.known_state(connection)
            number = self._readable_tag(connection, tag, purpose)
            names = {} if number is None else {number: tag}
            found = profile_reading.count_values(
                connection, state, names, purpose, _moment(now), value
            )
        return sum(one.count for one in found)

    def segments(self, *, purpose: str, now: datetime | None = None) -> list[SegmentCount]:
        """How many customers have each value of each tag, exactly: for this party only."""
        with store_errors(), snapshot(self._engine) as connection:
            state = profile_consent.known_state(connection)
            names = self._readable(connection, purpose)
            return profile_reading.count_values(connection, state, names, purpose, _moment(now))

    def export(
        self,
        tag: str,
        value: str | None = None,
        *,
        purpose: str,
        since: str | None = None,
        now: datetime | None = None,
    ) -> Iterator[TagRecord]:
        """Every customer's `tag` that may be read (with `value`, if given), in a fixed order.

        `since`: a run's id; only those whose value was set by a later publication. All of it is of
        the moment of the first: what is published or withdrawn meanwhile does not show.
        """
        with store_errors(), snapshot(self._engine) as connection:
            state = profile_consent.known_state(connection)
            number = self._readable_tag(connection, tag, purpose)
            after = None if since is None else profile_reading.publication_number(connection, since)
            if number is not None:
                yield from profile_reading.every_record(
                    connection,
                    state,
                    (number, tag),
                    purpose,
                    _moment(now),
                    self._customer,
                    value,
                    after,
                )

    def opted_out(self) -> frozenset[str]:
        """Every customer who has opted out: in no cohort, not scored."""
        with store_errors(), reading(self._engine) as connection:
            return opt_out.all_opted_out(connection, self._opted_out)

    def participations(self, customer: str) -> tuple[Participation, ...]:
        """Every run that a customer took part in, the oldest first."""
        with store_errors(), snapshot(self._engine) as connection:
            return opt_out.participations_of(connection, self._key(customer))

    # The outbox ----------------------------------------------------------------------------------

    def pending_events(self, *, now: datetime | None = None) -> list[Event]:
        """Events to send now, the oldest first."""
        with store_errors(), reading(self._engine) as connection:
            return outbox.due_events(connection, self._event, _moment(now))

    def has_undelivered(self) -> bool:
        """Whether some event has not arrived yet, due or not."""
        with store_errors(), reading(self._engine) as connection:
            return outbox.any_waiting(connection)

    def mark_delivered(self, event_id: str) -> None:
        """An event has arrived."""
        with store_errors(), self._engine.begin() as connection:
            outbox.note_delivered(connection, event_id, _moment(None))

    def mark_failed(self, event_id: str, retry_at: datetime) -> None:
        """An event has not arrived; it is due again at `retry_at`."""
        with store_errors(), self._engine.begin() as connection:
            outbox.note_failed(connection, event_id, retry_at)

    # Small parts ---------------------------------------------------------------------------------

    def _note(self, connection: Connection, kind: str, data: dict[str, Any], now: datetime) -> None:
        if self._events:
            outbox.add_event(connection, kind, data, now)

    def _key(self, customer: str) -> bytes:
        if not 0 < len(customer) <= MAX_CUSTOMER_CHARACTERS:
            raise StoreError(f"a customer id has 1 to {MAX_CUSTOMER_CHARACTERS} characters")
        try:
            return self._index.key(customer)
        except UnicodeEncodeError:
            raise StoreError("a customer id is not text; check its encoding") from None

    def _readable(self, connection: Connection, purpose: str) -> dict[int, str]:
        """The names, by id, of stored tags that may be read for `purpose`."""
        known = self._lookups.tag_ids(connection)
        return {known[name]: name for name in self._names(purpose) if name in known}

    def _names(self, purpose: str) -> list[str]:
        return [one.name for one in self.catalogue.tags if one.readable and purpose in one.purposes]

    def _readable_tag(self, connection: Connection, tag: str, purpose: str) -> int | None:
        names = self._readable(connection, purpose)
        return next((number for number, name in names.items() if name == tag), None)


def _moment(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else now
