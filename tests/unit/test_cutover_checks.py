"""The checks of a rehearsal that no store answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.engine.cutover_checks import CheckLevel, mount_check
from relay.process.mounts import Mount
from relay.stores.local_locations import local_location


def mount(point: object, kind: str) -> Mount:
    """Return a mount of this type."""
    return Mount(device="0:1", root="/", point=str(point), kind=kind, source="x", options=())


@pytest.mark.parametrize(
    ("kinds", "is_warned"),
    [
        (("ext4", "fuse.rclone"), True),
        (("fuse.rclone", "ext4"), False),  # the later one hides the earlier one
        (("ext4", "nfs4"), False),
    ],
)
def test_a_source_on_a_fuse_mount_is_warned_about(
    tmp_path: Path, kinds: tuple[str, str], is_warned: bool
) -> None:
    folder = tmp_path / "mnt" / "tree"
    folder.mkdir(parents=True)
    mounts = [mount("/", "ext4"), *(mount(tmp_path / "mnt", kind) for kind in kinds)]
    mounts += [mount(tmp_path / "mn", "fuse.other")]
    found = mount_check(local_location(folder, destination=False), mounts)
    assert (found is not None and found.level is CheckLevel.WARN) == is_warned
