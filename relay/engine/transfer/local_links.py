"""Refuse a place on this machine from which a link leads to the source, or to another object's
place in a tree.

Theory of operation. A link at the destination is written through. One that leads into the source
would have the source overwritten, or its own file taken for the one that arrived; one that leads to
another place of the same tree makes two objects one, and so do two that lead to one place outside
of it. The ledger keeps the links by which a tree is written.

Decided here: which links are not followed. Never here: how one is written through
(`stores/local_upload.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from relay.engine.multipart.journal import Journal
from relay.engine.plan import Plan
from relay.errors import KeyCollision, SameObject, Unavailable
from relay.location import Location
from relay.stores.local import LinkOut, is_at, leads_into, link_out_of

_HINT = "Remove the link at the destination, or move to another place."


def refuse_link_to_source(plan: Plan, place: Location) -> None:
    """Raise SameObject where a link leads from the place of an object to it, or to another one of
    the source's tree."""
    if not plan.source.store == place.store == "local":
        return
    source, destination = plan.tree or (
        plan.source,
        place.with_target(f"{place.path.rpartition('/')[0]}/"),
    )
    if leads_into(place, destination, source):
        raise SameObject(f"a link leads from {place} into the source", hint=_HINT)


def refuse_link_to_other_object(plan: Plan, place: Location, journal: Journal | None) -> None:
    """Raise KeyCollision where something is to be sent to a place of a tree from which a link leads
    to another one, or to where another object of the same tree goes by a link of its own. Raises
    LedgerFailed."""
    link = _link_out(plan, place)
    if link is None:
        return
    if link.there == link.tree or link.there.startswith(f"{link.tree}/"):
        raise KeyCollision(
            f"a link leads from {place} to another place of the same tree", hint=_HINT
        )
    others = (
        {}
        if journal is None
        else _current_links(plan, link, journal.note_link(link.link, link.target, link.there))
    )
    if others:
        raise _same_target_error(place, min(others))


def refuse_link_to_skipped_object(plan: Plan, place: Location, journal: Journal | None) -> None:
    """Raise KeyCollision where what is at a place of a tree, and is to be left there, is another
    object of the same migration, to which a link leads; Unavailable while that one is under way.
    Raises LedgerFailed."""
    link = _link_out(plan, place) if journal is not None else None
    if link is None or journal is None:
        return
    others = _current_links(plan, link, journal.objects_at_link(link.link, link.there, link.tree))
    for name, state in others.items():
        if state in ("verified", "unverified"):
            raise _same_target_error(place, name)
    if "running" in others.values():
        raise Unavailable(
            f"a link leads from {place} to an object that is under way", side="destination"
        )


def _link_out(plan: Plan, place: Location) -> LinkOut | None:
    return (
        link_out_of(place, plan.tree[1])
        if plan.tree is not None and place.store == "local"
        else None
    )


def _current_links(plan: Plan, link: LinkOut, others: Mapping[str, str]) -> Mapping[str, str]:
    """Return the others that go there by the links of now."""
    assert plan.tree is not None, "only of a tree something is led elsewhere"
    return {
        n: state
        for n, state in others.items()
        if is_at(plan.tree[1].below(n, destination=True), link.there)
    }


def _same_target_error(place: Location, name: str) -> KeyCollision:
    return KeyCollision(
        f"a link leads from {place} to where {name} of the same tree is", hint=_HINT
    )
