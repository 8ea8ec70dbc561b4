"""Shared fixtures of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay.ledger.ledger import Ledger
from tests.conftest import Certificates
from tests.faults.scripted_peers import Peers


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Return an empty ledger."""
    made = Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.close()


@pytest.fixture(params=["plain", "tls"])
def peers(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Peers]:
    """Return a way to start peers, over plain TCP and over TLS."""
    with ExitStack() as stack:
        yield Peers(stack, certificates.server if request.param == "tls" else None)
