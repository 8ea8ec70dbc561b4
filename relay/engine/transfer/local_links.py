"""Refuse a destination whose symbolic link leads to the source, or to another object of the tree.

Theory of operation. Uploads follow symbolic links at the destination. A link into the source would
overwrite the source, or take the source's file for an uploaded one. A link to another place of the
same tree merges two objects, and so do two links to one place outside of it. The ledger records the
links that a tree is written or skipped through: a skipped object is not replaced either.

Decided here: which links of local folders are refused; a server's links are judged by its store
(`stores/sftp/remote_links.py`). Never here: how a link is followed (`stores/local_upload.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from relay.engine.multipart.journal import Journal
from relay.engine.plan import Plan
from relay.errors import KeyCollision, SameObject, Unavailable
from relay.ledger.states import TransferState
from relay.location import Location
from relay.stores.interfaces import Destination, LinkingDestination
from relay.stores.local_aliases import LinkOut, is_at, leads_into, link_out_of

_HINT = "Remove the link at the destination, or move to another place."


def refuse_link_to_source(plan: Plan, place: Location, store: Destination) -> None:
    """Raise SameObject if a link leads from the object's place to the source, or to another object
    of the source's tree. Raises KeyCollision and StoreError where the store judges its links."""
    if isinstance(store, LinkingDestination):
        return store.refuse_links(place, plan.source, plan.tree)
    if not plan.source.store == place.store == "local":
        return
    source, destination = plan.tree or (
        plan.source,
        place.with_target(f"{place.path.rpartition('/')[0]}/"),
    )
    if leads_into(place, destination, source):
        raise SameObject(f"a link leads from {place} into the source", hint=_HINT)


def refuse_link_to_other_object(plan: Plan, place: Location, journal: Journal | None) -> None:
    """Raise KeyCollision before an upload through a link that leads to another place of the same
    tree, or to the target of another object's link. Raises LeaseLost, LedgerFailed."""
    link = _link_out(plan, place)
    if link is None:
        return
    if link.there == link.tree or link.there.startswith(f"{link.tree}/"):
        raise KeyCollision(
            f"a link leads from {place} to another place of the same tree", hint=_HINT
        )
    if journal is None:
        return
    others = _current_links(plan, link, journal.note_link(link.link, link.target, link.there))
    if others:
        raise _same_target_error(place, min(others))


def refuse_link_to_skipped_object(plan: Plan, place: Location, journal: Journal | None) -> None:
    """Raise KeyCollision before a skip, if the existing object is another one of the same
    migration, reached through a link; Unavailable while that object is being uploaded. Raises
    LedgerFailed."""
    link = _link_out(plan, place) if journal is not None else None
    if link is None or journal is None:
        return
    kept = journal.note_link(link.link, link.target, link.there, link.tree)
    others = _current_links(plan, link, kept)
    for name, state in others.items():
        if state in (TransferState.VERIFIED, TransferState.UNVERIFIED):
            raise _same_target_error(place, name)
    if TransferState.RUNNING in others.values():
        raise Unavailable(
            f"a link leads from {place} to an object that is being uploaded", side="destination"
        )


def _link_out(plan: Plan, place: Location) -> LinkOut | None:
    if plan.tree is None or place.store != "local":
        return None
    return link_out_of(place, plan.tree[1])


def _current_links(plan: Plan, link: LinkOut, others: Mapping[str, str]) -> Mapping[str, str]:
    """Return those of the `others` whose links still lead to the same target."""
    assert plan.tree is not None, "links are recorded for trees only"
    return {
        n: state
        for n, state in others.items()
        if is_at(plan.tree[1].below(n, destination=True), link.there)
    }


def _same_target_error(place: Location, name: str) -> KeyCollision:
    return KeyCollision(
        f"a link leads from {place} to the place of {name} in the same tree", hint=_HINT
    )
