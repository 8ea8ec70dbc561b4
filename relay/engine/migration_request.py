"""A migration's request: as a caller sends it, as the ledger keeps it, and as a job that runs.

A MigrationRequest is the caller's input: two texts with their headers, and options. The ledger
accepts it as a Spec, which keeps the secrets apart. A worker turns a stored migration into a
MigrationJob: two Locations, with the current remotes and credentials, and the plan of each
transfer.

Decided here: which members are secret, and where an object of a tree is. Never here: when work is
done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote

from relay.engine.comparison import Compare
from relay.engine.listing_filter import ListingFilter, refuse_markers_of_list
from relay.engine.plan import IfExists, Metadata, Plan, Verify, refuse_same_object
from relay.engine.plan_file import PlanReference
from relay.engine.proof_levels import refuse_unprovable
from relay.errors import ConfigError, InvalidFilter, InvalidType, SameObject, UnsafeKey
from relay.filters.filter_set import Filters, tree_needed_error
from relay.headers import Headers
from relay.hosts import is_loopback, literal_address
from relay.identity import owner_of, place_identity, place_in_server, selecting_headers
from relay.ledger.claim_values import Claim
from relay.ledger.listing_values import AgeOrigins, ListedObject
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.plan_values import StoredPlan
from relay.ledger.planned_values import PlannedPair
from relay.ledger.standing_values import PassTimes
from relay.location import Location
from relay.process.identities import is_container, network_namespace, volume_of
from relay.stores.interfaces import Source
from relay.stores.local_aliases import is_nested, same_file
from relay.stores.local_locations import path_of
from relay.stores.remotes import Remotes
from relay.stores.url_lists import location_of_url
from relay.throttle import Bounds
from relay.wire.watchdog import Watchdog


@dataclass(frozen=True)
class Endpoint:
    """One side of a request. `text` and `headers` may hold secrets."""

    text: str = field(repr=False)
    _: KW_ONLY
    headers: Headers = field(default=(), repr=False)
    method: str | None = None
    is_object: bool = False
    """Whether the request had a JSON object, with the text in its member `url`."""

    def pointer(self, name: str) -> str:
        """Return the JSON pointer of the text in the request (RFC 6901)."""
        return f"/{name}/url" if self.is_object else f"/{name}"

    def secret(self) -> dict[str, Any]:
        """Return the members that a later process needs to reach this side."""
        return {
            "text": self.text,
            "headers": [list(pair) for pair in self.headers],
            "method": self.method,
        }

    @classmethod
    def from_secret(cls, secret: Mapping[str, Any]) -> Endpoint:
        """Return the side whose `secret()` this is."""
        return cls(
            secret["text"],
            headers=tuple((name, value) for name, value in secret["headers"]),
            method=secret["method"],
        )


@dataclass(frozen=True)
class MigrationRequest:
    """One request: an object, or with `recursive` every object below a folder."""

    source: Endpoint
    destination: Endpoint
    _: KW_ONLY
    recursive: bool = False
    verify: Verify = Verify.AUTO
    if_exists: IfExists | None = None
    """None is `changed` for a tree and `overwrite` for one object."""
    priority: int = 0
    server_copy: bool = True
    """Whether the store may copy by itself, if both sides are one store."""
    bounds: Bounds = Bounds()
    metadata: Metadata = Metadata.KEEP
    fail_on_empty: bool = False
    """Whether a tree without objects fails."""
    once: bool = False
    """Whether each content of a tree is moved once, and copied by the destination."""
    paused: bool = False
    """Whether it is accepted as paused: a resume starts it."""
    filters: Filters | None = None
    """Which objects of a tree are moved; None: all."""
    moves: bool = False
    """Whether objects that arrived are deleted at the source (`engine/removal/`)."""
    mirrors: bool = False
    """Whether objects that the source lacks are deleted at the destination."""
    standing: PassTimes | None = None
    """When the passes of a standing migration begin; None: it ends by itself."""
    compare: Compare | None = None
    """How `if_exists: changed` compares; None: as it always did."""
    follows: PlanReference | None = None
    """The saved plan: only what it decided is done."""

    def secret(self) -> dict[str, Any]:
        """Return the secrets of both sides."""
        return {"source": self.source.secret(), "destination": self.destination.secret()}

    def spec(self, remotes: Remotes) -> Spec:
        """Return the request as the ledger keeps it. Raises as `locate`."""
        return self.spec_at(*self.locate(remotes), remotes)

    def spec_at(self, source: Location, destination: Location, remotes: Remotes) -> Spec:
        """Return the request as the ledger keeps it, for two sides already located."""
        here = [place for place in (source, destination) if _is_of_machine(place)]
        return Spec(
            remotes.display(self.source.text, source),
            remotes.display(self.destination.text, destination),
            options=self.options,
            secret=self.secret(),
            priority=self.priority,
            bounds=self.bounds,
            paused=self.paused,
            places=(place_identity(source), place_identity(destination)),
            place=place_in_server(destination),
            owners=(owner_of(source), owner_of(destination)),
            of_machine=remotes.in_terminal and bool(here),
            volumes=_volumes_of(here) if remotes.in_terminal and is_container() else (),
            named=(selecting_headers(source.headers), selecting_headers(destination.headers)),
            standing=self.standing,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The options as JSON members; optional ones with their default are left out."""
        named = {
            "recursive": self.recursive,
            "verify": self.verify.value,
            "if_exists": self.existing.value,
        }
        # The options are a part of the request's hash (`identity_hashes.py`). A later option is
        # left out at its default, so that the migration of an older relay is still found.
        copy = {} if self.server_copy else {"server_copy": False}
        metadata = {} if self.metadata is Metadata.KEEP else {"metadata": self.metadata.value}
        empty = {"fail_on_empty": True} if self.fail_on_empty else {}
        once = {"once": True} if self.once else {}
        chosen = self.if_exists is IfExists.OVERWRITE and not self.recursive
        replaces = {"replaces_named": True} if chosen else {}
        filters = {"filters": self.filters.to_json()} if self.filters is not None else {}
        deletes = {"move": True} if self.moves else {"mirror": True} if self.mirrors else {}
        # Without its times: a person may change them, and means the same migration.
        stands = {"standing": True} if self.standing is not None else {}
        compare = {} if self.compare is None else {"compare": self.compare.value}
        plan = {} if self.follows is None else {"plan": self.follows.to_json()}
        later = {**once, **filters, **deletes, **stands, **compare, **plan}
        return {**named, **copy, **metadata, **empty, **replaces, **later}

    @property
    def existing(self) -> IfExists:
        """What to do if the destination already has the object."""
        return self.if_exists or (IfExists.CHANGED if self.recursive else IfExists.OVERWRITE)

    @property
    def replaces_named(self) -> bool:
        """Whether `existing` holds too where the source's answer chose the object's name: the
        caller gave the option."""
        return self.if_exists is not None

    def remote_names(self, source: Location, destination: Location) -> tuple[str, str]:
        """Return the name of each side's remote, or the kind of its store; the two sides were
        located."""
        return (
            Remotes.name_of(self.source.text, source),
            Remotes.name_of(self.destination.text, destination),
        )

    def locate(self, remotes: Remotes) -> tuple[Location, Location]:
        """Return both Locations; those of a tree are folders.

        Raises a RequestError, whose pointer names the side; SameObject if the two overlap;
        VerificationUnavailable for a level of proof that the destination can never give;
        InvalidFilter for filters of one object, or that the source does not support; InvalidType
        for a standing migration of one object, or that would keep what changes, and for `once`
        with an option that it does not go with."""
        if self.filters is not None and not self.recursive:
            raise tree_needed_error()
        if self.standing is not None:
            self._refuse_standing()
        if self.once:
            self._refuse_once()
        if self.recursive and self.destination.method == "POST":
            raise InvalidType(
                "a tree is uploaded by PUT",
                hint="Leave the method out.",
                pointer="/destination/method",
            )
        source = remotes.locate(
            self.source.text,
            headers=self.source.headers,
            pointer=self.source.pointer("source"),
            folder=self.recursive,
        )
        destination = remotes.locate(
            self.destination.text,
            method=self.destination.method,
            headers=self.destination.headers,
            pointer=self.destination.pointer("destination"),
            destination=True,
            folder=self.recursive,
        )
        refuse_unprovable(self.verify, destination)
        if self.filters is not None:
            refuse_markers_of_list(self.filters, source)
        if not self.recursive:
            refuse_same_object(source, destination)
            if source.store == destination.store == "local" and same_file(source, destination):
                raise SameObject(f"{source} and {destination} are the same file")
            return source, destination
        source, destination = source.folder(), destination.folder()
        _refuse_overlap(source, destination)
        return source, destination

    def _refuse_once(self) -> None:
        if not self.recursive:
            raise InvalidType(
                "once is for a tree: a single object has no duplicates",
                hint="Leave it out, or move a folder.",
                pointer="/once",
            )
        if self.moves or self.standing is not None or self.follows is not None:
            raise InvalidType(
                "once goes neither with a move, a saved plan nor a standing migration",
                hint="Leave it out.",
                pointer="/once",
            )

    def _refuse_standing(self) -> None:
        if not self.recursive:
            raise InvalidType(
                "a standing migration is of a tree",
                hint="Set 'recursive', or leave 'standing' out.",
                pointer="/standing",
            )
        if self.existing.only_if_absent:
            raise InvalidType(
                f"a standing migration replaces what has changed, which 'if_exists'"
                f" {self.existing.value!a} does not",
                hint="Leave 'if_exists' out.",
                pointer="/if_exists",
            )


def _is_of_machine(place: Location) -> bool:
    host, address = place.host, literal_address(place.host)
    if not host or host.endswith(".localhost"):
        return True
    return is_loopback(str(address or host)) or (address is not None and address.is_unspecified)


def _volumes_of(places: Iterable[Location]) -> tuple[list[str], ...]:
    """Return the identities of what a container names: of its volumes, or, for servers at its own
    addresses, of its network."""
    return tuple(
        [network_namespace()] if place.host else volume_of(path_of(place)) for place in places
    )


def stored_request(stored: Migration | StoredPlan, secret: Mapping[str, Any]) -> MigrationRequest:
    """Return the request of a stored migration or plan with its secrets, without the priority and
    the bounds."""
    ends = (Endpoint.from_secret(secret[side]) for side in ("source", "destination"))
    return replace(request_of_options(stored.options, *ends), standing=_times_of(stored))


def request_of_options(
    options: Mapping[str, Any], source: Endpoint, destination: Endpoint
) -> MigrationRequest:
    """Return the request whose `options` these are, between two sides."""
    follows = options.get("plan")
    return MigrationRequest(
        source,
        destination,
        recursive=bool(options.get("recursive")),
        verify=Verify(options["verify"]),
        if_exists=if_exists_of(options),
        server_copy=options.get("server_copy", True),
        metadata=Metadata(options.get("metadata", "keep")),
        fail_on_empty=options.get("fail_on_empty", False),
        once=options.get("once", False),
        filters=filters_of_options(options),
        compare=compare_of(options),
        follows=None if follows is None else PlanReference(follows["path"], follows["sha256"]),
        moves=options.get("move", False),
        mirrors=options.get("mirror", False),
    )


def _times_of(stored: Migration | StoredPlan) -> PassTimes | None:
    """Return the times of the passes of a stored migration; a plan has none."""
    standing = stored.standing if isinstance(stored, Migration) else None
    return None if standing is None else standing.times


def filters_of_options(options: Mapping[str, Any]) -> Filters | None:
    """Return the filters in stored options, or None."""
    members = options.get("filters")
    return None if members is None else Filters.from_json(members)


def compare_of(options: Mapping[str, Any]) -> Compare | None:
    """Return how stored options compare, or None."""
    stored = options.get("compare")
    return None if stored is None else Compare(stored)


def if_exists_of(options: Mapping[str, Any]) -> IfExists | None:
    """Return the option among stored ones, as its caller gave it: None is the default of one
    object."""
    stored = IfExists(options["if_exists"])
    given = options.get("recursive") or options.get("replaces_named", False)
    return None if stored is IfExists.OVERWRITE and not given else stored


def _refuse_folder(name: str) -> None:
    """Raise UnsafeKey for a folder that could not be listed: its page is not an object. A retry
    lists the folder again."""
    if name.endswith("/"):
        raise UnsafeKey(
            "it is a folder that could not be listed, not an object",
            hint="Retry the migration: the folder is listed again.",
        )


TURNS = 4
"""Number of times a name must repeat a path that ends as the destination does, to count as an
object that this migration wrote."""


def _refuse_output(name: str, destination: Location) -> None:
    """Raise SameObject for an object of a tree that this migration itself wrote, judged by its
    name.

    A store may have two names, so that a destination inside the source goes unnoticed. The listing
    then shows each written object again, one level deeper each time. An object that is refused here
    is not written again, so the listing ends."""
    segments = name.split("/")[:-1]
    if len(segments) < TURNS:
        return
    last = unquote(destination.path.rstrip("/").rpartition("/")[2])
    for length in range(1, len(segments) // TURNS + 1):
        turn = segments[:length]
        if turn[-1] == last and segments[: length * TURNS] == turn * TURNS:
            raise SameObject(
                f"{name[:200]!a} repeats {'/'.join(turn)[:200]!a} {TURNS} times or more:"
                f" {destination} seems to be inside the source, under another name of the same"
                " store, so that this migration wrote the object itself",
                side="source",
                hint=(
                    "Choose a destination outside the source, and remove the repeated objects. If"
                    " this object belongs to the source, choose a destination whose last folder has"
                    " another name."
                ),
            )


_OVER_HTTP: Final = frozenset({"http", "webdav", "nextcloud"})


def _refuse_overlap(source: Location, destination: Location) -> None:
    """Raise SameObject for a tree that would be moved into itself: its listing might never end."""
    if source.store == destination.store:
        is_one_server = source.origin == destination.origin
    else:  # a web server may have the same folders for WebDAV
        stores = {source.store, destination.store}
        ends = {(source.host, source.port), (destination.host, destination.port)}
        is_one_server = stores <= _OVER_HTTP and len(ends) == 1
    if not is_one_server:
        return
    below = destination.path.startswith(source.path) or source.path.startswith(destination.path)
    if below or (source.store == "local" and is_nested(source, destination)):
        raise SameObject(
            f"{source} and {destination} overlap: one contains the other",
            hint="Give a destination that is neither above nor below the source.",
        )


def refuse_drawn_part(filters: Filters | None, by: str = "a plan") -> None:
    """Raise InvalidFilter if a plan, or a comparison, could not know what a migration chooses."""
    if filters is not None and filters.is_drawn:
        raise InvalidFilter(
            f"{by} can't know the part @/N, which is drawn when a migration begins",
            hint="Give the number of a part, such as 1/10.",
            pointer="/filters/hash_filter",
        )


def filter_of(
    job: MigrationJob, source: Source, meter: Watchdog, origins: AgeOrigins | None = None
) -> ListingFilter | None:
    """Return the filter of a listing of a job's source, or None without filters. Ages count from
    `origins`; None: from the job's acceptance. Raises as ListingFilter."""
    if job.filters is None:
        return None
    filters, now = job.filters, job.accepted
    if origins is not None:
        filters, now = filters_from(filters, origins), origins.earliest
    return ListingFilter(filters, source, job.source, meter, now=now, seed=job.id)


def filters_from(filters: Filters, origins: AgeOrigins) -> Filters:
    """Return the filters of a stored migration whose ages count from `origins.earliest`, with the
    latest time as a moment."""
    return filters.until(datetime.fromtimestamp(origins.latest).astimezone())


@dataclass(frozen=True, kw_only=True)
class MigrationJob:
    """A migration with both locations, ready to run."""

    id: str
    source: Location
    destination: Location
    recursive: bool
    verify: Verify
    if_exists: IfExists
    server_copy: bool = True
    metadata: Metadata = Metadata.KEEP
    fail_on_empty: bool = False
    once: bool = False
    replaces_named: bool = True
    remotes: tuple[str, str] | None = None
    """As Plan.remotes."""
    filters: Filters | None = None
    compare: Compare | None = None
    follows: PlanReference | None = None
    accepted: float = 0.0
    """When it was accepted, in seconds since 1970."""

    @classmethod
    def from_row(
        cls, migration: Migration, secret: Mapping[str, Any] | None, remotes: Remotes
    ) -> tuple[MigrationJob, Spec]:
        """Return the job with the current remotes, and the Spec that they give. Raises ConfigError
        if the secrets were deleted, and as MigrationRequest.locate."""
        if secret is None:
            raise ConfigError(
                f"the credentials of migration {migration.name} have been deleted",
                hint="Send the same request again; objects that are already there are skipped.",
            )
        order = stored_request(migration, secret)
        places = order.locate(remotes)
        job = cls.from_request(migration.id, order, *places)
        return replace(job, accepted=migration.created), order.spec_at(*places, remotes)

    @classmethod
    def from_request(
        cls, id: str, order: MigrationRequest, source: Location, destination: Location
    ) -> MigrationJob:
        """Return the job of a request whose two sides were located."""
        return cls(
            id=id,
            source=source,
            destination=destination,
            recursive=order.recursive,
            verify=order.verify,
            if_exists=order.existing,
            replaces_named=order.replaces_named,
            server_copy=order.server_copy,
            metadata=order.metadata,
            fail_on_empty=order.fail_on_empty,
            once=order.once,
            remotes=order.remote_names(source, destination),
            filters=order.filters,
            compare=order.compare,
            follows=order.follows,
            accepted=time.time(),
        )

    def plan_of_listed(self, one: ListedObject) -> Plan:
        """Return the plan of a listed object, as for the claim that a worker would have of it.
        Raises as `plan`."""
        claim = Claim(
            id=0,
            migration_id=self.id,
            fence=0,
            name=one.name,
            url=one.url,
            size=one.size,
            etag=one.etag,
            modified=one.modified,
            attempts=1,
            crash_count=0,
            resent=0,
        )
        return self.plan(claim)

    def plan(self, claim: Claim) -> Plan:
        """Return the plan of one transfer. Raises UnsafeKey for a name that would leave the tree,
        SameObject for an object that this migration itself wrote."""
        source, destination, tree = self.source, self.destination, None
        if self.recursive:
            tree = (source, destination)
            _refuse_folder(claim.name)
            _refuse_output(claim.name, destination)
            source = location_of_url(source, claim.url) if claim.url else source.below(claim.name)
            destination = destination.below(claim.name, destination=True)
        planned = PlannedPair.from_text(claim.planned)
        if_exists = self.if_exists
        if planned is not None:  # decided already, of these versions
            if_exists = IfExists.FAIL if planned.destination is None else IfExists.OVERWRITE
        return Plan(
            source,
            destination,
            verify=self.verify,
            if_exists=if_exists,
            replaces_named=self.replaces_named,
            server_copy=self.server_copy,
            metadata=self.metadata,
            compare=self.compare,
            once=self.once and self.recursive,
            tree=tree,
            remotes=self.remotes,
        )
