"""A migration's request: as a caller sends it, as the ledger keeps it, and as a job that runs.

An Order is what came in: two texts with their headers, and options. Accepted, it becomes a Spec,
whose secrets lie apart. A Job is what a runner makes of a migration again: two Locations, with
today's remotes and credentials, and the plan of each transfer.

Decided here: what is secret, where an object of a tree lies. Never here: when anything happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from relay.engine.plan import IfExists, Metadata, Plan, Verify
from relay.engine.proof_levels import refuse_unprovable
from relay.errors import ConfigError, SameObject, UnsafeKey
from relay.headers import Headers
from relay.identity import named_by, owner_of, place_of
from relay.ledger.rows import Claim, Migration, Spec
from relay.location import Location, parse_location
from relay.stores.local import is_nested, same_file
from relay.stores.remotes import Remotes
from relay.throttle import Bounds


@dataclass(frozen=True)
class Endpoint:
    """One side as it was asked for. `text` and `headers` may hold secrets."""

    text: str = field(repr=False)
    headers: Headers = field(default=(), repr=False)
    method: str | None = None
    is_object: bool = False
    """It came as a JSON object, in which the text is the member `url`."""

    def pointer(self, name: str) -> str:
        """Return where in the request the text stands."""
        return f"/{name}/url" if self.is_object else f"/{name}"

    def secret(self) -> dict[str, Any]:
        """Return what a later process needs to speak to this side."""
        return {
            "text": self.text,
            "headers": [list(pair) for pair in self.headers],
            "method": self.method,
        }

    @classmethod
    def from_secret(cls, secret: Mapping[str, Any]) -> Endpoint:
        """Return the side that `secret` was made of."""
        return cls(
            secret["text"],
            tuple((name, value) for name, value in secret["headers"]),
            secret["method"],
        )


@dataclass(frozen=True)
class MigrationRequest:
    """One request: an object, or with `recursive` all that is below a folder."""

    source: Endpoint
    destination: Endpoint
    recursive: bool = False
    verify: Verify = Verify.AUTO
    if_exists: IfExists | None = None
    """None is `changed` for a tree and `overwrite` for one object."""
    priority: int = 0
    server_copy: bool = True
    """Where both ends are one store that can copy by itself, let it."""
    bounds: Bounds = Bounds()
    metadata: Metadata = Metadata.KEEP
    fail_on_empty: bool = False
    """A tree in which nothing is found fails."""

    def secret(self) -> dict[str, Any]:
        """Return the secrets of both sides."""
        return {"source": self.source.secret(), "destination": self.destination.secret()}

    def spec(self, remotes: Remotes) -> Spec:
        """Return what the ledger keeps. Raises a RequestError for what can't be located, or moved
        onto itself."""
        return self.spec_at(*self.locate(remotes), remotes)

    def spec_at(self, source: Location, destination: Location, remotes: Remotes) -> Spec:
        """As `spec`, of what was located already."""
        return Spec(
            remotes.display(self.source.text, source),
            remotes.display(self.destination.text, destination),
            self.options,
            self.secret(),
            self.priority,
            self.bounds,
            (place_of(source), place_of(destination)),
            (owner_of(source), owner_of(destination)),
            (named_by(source.headers), named_by(destination.headers)),
        )

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for besides the two ends; one that is left out by default is left out here
        too."""
        named = {
            "recursive": self.recursive,
            "verify": self.verify.value,
            "if_exists": self.existing.value,
        }
        copy = {} if self.server_copy else {"server_copy": False}
        metadata = {} if self.metadata is Metadata.KEEP else {"metadata": self.metadata.value}
        empty = {"fail_on_empty": True} if self.fail_on_empty else {}
        return {**named, **copy, **metadata, **empty}

    @property
    def existing(self) -> IfExists:
        """What to do where the destination has an object."""
        return self.if_exists or (IfExists.CHANGED if self.recursive else IfExists.OVERWRITE)

    def locate(self, remotes: Remotes) -> tuple[Location, Location]:
        """Return both Locations; those of a tree are folders. Raises a RequestError, whose pointer
        names the side; VerificationUnavailable for a proof that can never be had."""
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
        if not self.recursive:
            Plan(source, destination)
            if source.store == destination.store == "local" and same_file(source, destination):
                raise SameObject(f"{source} and {destination} are one file")
            return source, destination
        source, destination = source.folder(), destination.folder()
        _refuse_overlap(source, destination)
        return source, destination


def _location_of_url(source: Location, url: str) -> Location:
    """Return where an object of a list is; the list's own credentials go along only to its own
    origin."""
    found = parse_location(url)
    return replace(found, headers=source.headers) if found.origin == source.origin else found


def _refuse_folder(name: str) -> None:
    """Raise UnsafeKey for a folder that could not be listed: its own page is no object. A retry
    lists it again."""
    if name.endswith("/"):
        raise UnsafeKey(
            "it is a folder, and no object",
            hint="Retry the migration: what could not be listed is listed again.",
        )


TURNS = 4
"""So often a name repeats a path that ends as the destination does, before it is taken for what was
written there."""


def _refuse_output(name: str, destination: Location) -> None:
    """Raise SameObject for an object of a tree that this migration itself wrote, by all that its
    name tells.

    One store may have two names, so that nobody sees that the destination lies in the source. Then
    each object comes back below it, and again one deeper; one that is not moved any more comes back
    no more, and the listing ends."""
    segments = name.split("/")[:-1]
    if len(segments) < TURNS:
        return
    last = unquote(destination.path.rstrip("/").rpartition("/")[2])
    for length in range(1, len(segments) // TURNS + 1):
        turn = segments[:length]
        if turn[-1] == last and segments[: length * TURNS] == turn * TURNS:
            raise SameObject(
                f"{name[:200]!a} repeats {'/'.join(turn)[:200]!a} again and again: {destination}"
                " seems to lie in the source, by another name of one store, and this to have been"
                " written there just now",
                side="source",
                hint=(
                    "Move the tree to a place outside of its source, and remove what came back. If"
                    " this object is the source's own, choose a destination whose last folder has"
                    " another name."
                ),
            )


def _refuse_overlap(source: Location, destination: Location) -> None:
    """Raise SameObject for a tree that is to be moved into itself: its listing might never end."""
    if source.origin != destination.origin or source.store != destination.store:
        return
    below = destination.path.startswith(source.path) or source.path.startswith(destination.path)
    if below or (source.store == "local" and is_nested(source, destination)):
        raise SameObject(
            f"{source} and {destination} lie in each other",
            hint="Give a destination that is neither above nor below the source.",
        )


@dataclass(frozen=True)
class MigrationJob:
    """A migration, ready to be carried out."""

    id: str
    source: Location
    destination: Location
    recursive: bool
    verify: Verify
    if_exists: IfExists
    server_copy: bool = True
    metadata: Metadata = Metadata.KEEP
    fail_on_empty: bool = False

    @classmethod
    def from_row(
        cls, migration: Migration, secret: Mapping[str, Any] | None, remotes: Remotes
    ) -> tuple[MigrationJob, Spec]:
        """Return it with today's remotes, and what would be accepted with them. Raises ConfigError
        where the secrets are gone, and as MigrationRequest.locate."""
        if secret is None:
            raise ConfigError(
                f"migration {migration.number} has no credentials any more",
                hint="Send the same request again; what is there already is skipped.",
            )
        order = MigrationRequest(
            Endpoint.from_secret(secret["source"]),
            Endpoint.from_secret(secret["destination"]),
            migration.recursive,
            Verify(migration.options["verify"]),
            IfExists(migration.options["if_exists"]),
            server_copy=migration.options.get("server_copy", True),
            metadata=Metadata(migration.options.get("metadata", "keep")),
            fail_on_empty=migration.options.get("fail_on_empty", False),
        )
        places = order.locate(remotes)
        return cls.from_request(migration.id, order, *places), order.spec_at(*places, remotes)

    @classmethod
    def from_request(
        cls, id: str, order: MigrationRequest, source: Location, destination: Location
    ) -> MigrationJob:
        """Return the job of an order whose two ends were located."""
        return cls(
            id,
            source,
            destination,
            order.recursive,
            order.verify,
            order.existing,
            order.server_copy,
            order.metadata,
            order.fail_on_empty,
        )

    def plan(self, claim: Claim) -> Plan:
        """Return the plan of one transfer. Raises UnsafeKey for a name that would leave the tree,
        SameObject for what this migration itself wrote."""
        source, destination, tree = self.source, self.destination, None
        if self.recursive:
            tree = (source, destination)
            _refuse_folder(claim.name)
            _refuse_output(claim.name, destination)
            source = _location_of_url(source, claim.url) if claim.url else source.below(claim.name)
            destination = destination.below(claim.name, destination=True)
        return Plan(
            source, destination, self.verify, self.if_exists, self.server_copy, self.metadata, tree
        )
