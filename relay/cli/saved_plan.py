"""The saved plans of `relay plan --save` and `relay migrate --plan`."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from relay.cli.options import absolute_path, bounds_of, headers_of
from relay.engine.migration_request import Endpoint, MigrationRequest, request_of_options
from relay.engine.plan_file import PlanFile, PlanHeader
from relay.errors import InvalidType, PlanRefused
from relay.identity import place_identity
from relay.location import Location
from relay.stores.local_locations import path_of
from relay.stores.remotes import Remotes

_DECIDED: Final = (
    *(
        "verify",
        "if_exists",
        "compare",
        "server_copy",
        "metadata",
        "fail_on_empty",
        "method",
        "once",
    ),
    *("include", "include_from", "exclude", "exclude_from", "filter", "filter_from"),
    *("files_from", "files_from_raw", "files_from0", "min_size", "max_size", "min_age", "max_age"),
    *("ignore_case", "exclude_if_present", "hash_filter"),
)
"""The options that a plan has decided."""


def header_of(
    order: MigrationRequest, places: tuple[Location, Location], remotes: Remotes
) -> PlanHeader:
    """Return the request of a plan that is to be saved. Raises InvalidType for one that no file can
    hold."""
    source, destination = places
    if not order.recursive:
        raise InvalidType("only the plan of a tree can be saved", hint="Add -r.")
    if order.once:
        raise InvalidType(
            "a plan with --once can't be saved: it may copy from an object that it has not seen",
            hint="Leave --once out.",
        )
    if source.store == "list":
        raise InvalidType(
            "the plan of a list of URLs can't be saved: the URLs may be secrets",
            hint="Migrate by the list itself.",
        )
    return PlanHeader(
        source=remotes.display(order.source.text, source),
        destination=remotes.display(order.destination.text, destination),
        options=order.options,
        places=(_hash_of(source), _hash_of(destination)),
        made=time.time(),
    )


def refuse_save_place(path: Path, source: Location) -> None:
    """Raise InvalidType for a plan's file that would be listed as an object of the `source`."""
    if source.store != "local":
        return
    folder, parent = os.path.realpath(path_of(source)), os.path.realpath(path.parent)
    if os.path.commonpath([folder, parent]) == folder:
        raise InvalidType(
            f"the plan can't be saved as {path}, which is in the source",
            hint="Choose a file elsewhere: the plan would be one of its own objects.",
        )


def order_of_plan(path: Path, options: Mapping[str, Any], remotes: Remotes) -> MigrationRequest:
    """Return the request that does what a saved plan decided. Raises UsageError for options that
    the plan has decided, PlanRefused, and as `read_headers`."""
    context = click.get_current_context()
    for name in _DECIDED:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"the plan has decided {flag}: leave it out")
    with PlanFile(str(path)) as plan:
        header, reference = plan.header, plan.reference
    ends: dict[str, Endpoint] = {}
    for side, planned in (("source", header.source), ("destination", header.destination)):
        text = planned if options[side] is None else absolute_path(options[side], True)
        remotes.refuse_like_remote(text)
        ends[side] = Endpoint(text, headers=headers_of(options, side))
    try:
        order = request_of_options(header.options, ends["source"], ends["destination"])
    except (AttributeError, KeyError, TypeError, ValueError):
        order = None
    # An option that is left out here might have decided otherwise.
    if order is None or not order.recursive or order.options != header.options:
        raise PlanRefused(f"{path} has options that this relay does not know")
    if order.moves or order.mirrors or order.once:  # no plan is saved with them
        raise PlanRefused(f"{path} has options that no saved plan has")
    order = replace(order, follows=reference, bounds=bounds_of(options))
    _require_places(path, header, order.locate(remotes))
    return order


def _require_places(path: Path, header: PlanHeader, places: tuple[Location, Location]) -> None:
    """Raise PlanRefused if a side is not the place that the plan has seen."""
    for side, place, seen in zip(("source", "destination"), places, header.places, strict=True):
        if _hash_of(place) != seen:
            raise PlanRefused(
                f"{path} is a plan of another {side} than {place}",
                hint="Give the SRC and DST of the plan, or make a new one.",
            )


def _hash_of(place: Location) -> str:
    return hashlib.sha256(place_identity(place).encode(errors="surrogateescape")).hexdigest()
