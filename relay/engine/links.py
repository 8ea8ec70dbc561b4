"""Refuse a place on this machine from which a link leads to the source, or to another object's place in a tree.

Theory of operation. A link at the destination is written through. One that leads into the source would have the source
overwritten, or its own file taken for the one that arrived; one that leads to another place of the same tree makes two
objects one.

Decided here: which links are not followed. Never here: how one is written through (`stores/local_upload.py`).
"""

from __future__ import annotations

from relay.engine.plan import Plan
from relay.errors import KeyCollision, SameObject
from relay.location import Location
from relay.stores.local import led_into

_HINT = "Remove the link at the destination, or move to another place."


def refuse_source(plan: Plan, place: Location) -> None:
    """Raise SameObject where a link leads from the place of an object to it, or to another one of the source's tree."""
    if not plan.source.store == place.store == "local":
        return
    source, destination = plan.tree or (plan.source, place.with_target(f"{place.path.rpartition('/')[0]}/"))
    if led_into(place, destination, source):
        raise SameObject(f"a link leads from {place} into the source", hint=_HINT)


def refuse_other(plan: Plan, place: Location) -> None:
    """Raise KeyCollision where something is to be sent to a place of a tree from which a link leads to another one."""
    if plan.tree is None or place.store != "local":
        return
    if led_into(place, plan.tree[1], plan.tree[1]):
        raise KeyCollision(f"a link leads from {place} to another place of the same tree", hint=_HINT)
