"""The flags of a mirror, and the settings that they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import click

from relay.cli.options import absolute_path
from relay.ledger.deletion_values import MOST, MOST_PERCENT, DeleteLimit, MirrorSettings

_NUMBER: Final = re.compile(r"([0-9]{1,12})|([0-9]{1,3}(?:\.[0-9]{1,3})?)%")


class MaxDelete(click.ParamType[DeleteLimit, Any]):
    """A number of objects, or a percentage of the destination's."""

    name = "limit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> DeleteLimit:
        """Return the limit. Raises click.BadParameter."""
        found = _NUMBER.fullmatch(str(value).strip())
        if found is None or (found[2] is not None and float(found[2]) > 100):
            self.fail(f"{value!r} is not a number of objects, such as 500, or 10%", param, ctx)
        if found[1] is not None:
            return DeleteLimit(number=int(found[1]))
        return DeleteLimit(percent=float(found[2]))


MIRROR = (
    click.option(
        "--mirror",
        is_flag=True,
        help=(
            "With -r: when all copies have ended, delete at DST the objects that SRC does not have."
        ),
    ),
    click.option(
        "--max-delete",
        type=MaxDelete(),
        metavar="N|P%",
        help=(
            "With --mirror: above this number of deletions none is made (default: the smaller of"
            f" {MOST:,} and {MOST_PERCENT}% of the objects at DST)."
        ),
    ),
    click.option(
        "--empty-source",
        is_flag=True,
        help="With --mirror: an empty SRC may empty DST, within --max-delete.",
    ),
    click.option(
        "--empty-folders",
        is_flag=True,
        help="With --mirror: a folder that SRC lacks or shows as empty may be emptied at DST.",
    ),
    click.option(
        "--trash",
        metavar="FOLDER",
        help=(
            "With --mirror: copy each object into this folder before it is deleted, from which"
            " `relay undo` takes it back. It lies outside SRC and DST."
        ),
    ),
)


def take_mirror_settings(options: dict[str, Any]) -> MirrorSettings | None:
    """Remove the flags of a mirror from the options, and return its settings, or None without
    --mirror. Raises click.UsageError for flags that need others."""
    names = ("mirror", "max_delete", "empty_source", "empty_folders", "trash")
    mirrors, limit, empty, folders, trash = (options.pop(name) for name in names)
    if not mirrors:
        if limit is not None or empty or folders or trash is not None:
            flags = "--max-delete, --empty-source, --empty-folders and --trash"
            raise click.UsageError(f"{flags} need --mirror")
        return None
    _refuse_object(options)
    trash = None if trash is None else absolute_path(trash, True)
    return MirrorSettings(
        limit=limit or DeleteLimit(), empty_source=empty, empty_folders=folders, trash=trash
    )


def _refuse_object(options: Mapping[str, Any]) -> None:
    if not options["recursive"]:
        raise click.UsageError("--mirror needs -r: one object has no names to compare")
