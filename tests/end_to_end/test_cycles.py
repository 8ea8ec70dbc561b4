"""A transfer leaves nothing to the garbage collector.

A cycle of objects stays in memory until a collection finds it, with all that it refers to: a frame
that keeps an exception keeps all frames below, and their buffers. The collections of such cycles
once took 15 % of the CPU of small objects over TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators.liars.store_habits import StoreHabits
from tests import forked
from tests.conftest import Certificates
from tests.end_to_end.test_requests import KEY, KINDS, configure, options, trees_of

FEW, MORE = 20, 180
"""Objects of the two trees: both have the cycles of the start, of the listing and of the end."""
MOST_LEFT = 30
"""Accepted number of objects in cycles for each object that is moved. Those of the ledger's
statements are few, and their number varies; a frame that is kept leaves hundreds."""
SIZES = (10, 100_000)
PROGRAM = "import runpy; runpy.run_module('tests.garbage_program', run_name='__main__')"


def count_garbage(
    pair: tuple[str, str],
    count: int,
    folder: Path,
    certificates: Certificates | None,
    library: str = "auto",
) -> int:
    """Migrate a tree between honest stores; return the number of objects in cycles."""
    folder.mkdir()
    tls = certificates.server if certificates else None
    with (
        KINDS[pair[0]]("source", StoreHabits((), 1), {"", KEY}, tls) as source,
        KINDS[pair[1]]("destination", StoreHabits((), 2), {"", KEY}, tls) as destination,
    ):
        for number in range(count):
            source.shelf.put(f"tree/{number:03}", bytes(SIZES[number % len(SIZES)]), "source")
        remotes = {
            "here": options(pair[0], source.url()),
            "there": options(pair[1], destination.url()),
        }
        environment = configure(folder, remotes) | {"RELAY_TLS": library}
        if certificates:
            environment["RELAY_CA_BUNDLE"] = str(certificates.ca_file)
        places = trees_of(pair)
        report = folder / "garbage"
        words = (PROGRAM, str(report), "migrate", "-r", "-q", *places)
        code, _, err = forked.run(words, environment, 60, program="-c")
        assert code == 0, err
        assert len(set(destination.shelf.names())) == count
        return int(report.read_text())


@pytest.mark.parametrize("pair", [("s3", "s3"), ("http", "webdav")], ids=" to ".join)
@pytest.mark.parametrize("library", ["plain", "ssl", "pyopenssl"])
def test_a_transfer_leaves_no_cycles(
    pair: tuple[str, str], library: str, tmp_path: Path, certificates: Certificates
) -> None:
    encrypted = (certificates, library) if library != "plain" else (None,)
    few, more = (
        count_garbage(pair, count, tmp_path / f"{count}", *encrypted) for count in (FEW, MORE)
    )
    assert (more - few) / (MORE - FEW) <= MOST_LEFT
