"""Rounds of moves, interleaved: every mover once a round and scheme, each beginning at another place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtests.bench.measures import MIB, BenchError, Row, Sample
from loadtests.bench.movers import Mover
from loadtests.bench.peers import Peers
from loadtests.bench.proc import touch_memory

LARGE, SMALL, WARM = "large.bin", "small.bin", "warm.bin"
SPARE = 256 * MIB
"""What a move needs beside the object's own size: socket buffers, and the movers themselves."""
Say = Callable[[str], None]


def run_rounds(
    movers: Sequence[Mover], peers: Peers, schemes: Sequence[str], rounds: int, sizes: dict[str, int], say: Say
) -> list[Row]:
    """Return a row for each mover and scheme. A mover that failed is not tried again; its row says why."""
    rows = [
        Row(m.key, m.label, s, sizes[SMALL if m.small else LARGE]) for s in schemes for m in movers if s in m.schemes
    ]
    by_key = {mover.key: mover for mover in movers}
    for number in range(rounds):
        for scheme in schemes:
            of_scheme = [row for row in rows if row.scheme == scheme]
            turn = number % len(of_scheme)
            for row in of_scheme[turn:] + of_scheme[:turn]:
                if row.failure is None:
                    _move(by_key[row.key], row, peers)
                    say(f"round {number + 1}/{rounds} {scheme:5} {row.key:10} {_latest(row)}")
    ciphers = peers.ciphers()
    for row in rows:
        row.cipher = ciphers.get(f"/{_name(row)}")
    return rows


def _name(row: Row) -> str:
    return f"{row.scheme}-{row.key}.bin"


def _move(mover: Mover, row: Row, peers: Peers) -> None:
    source, name = SMALL if mover.small else LARGE, _name(row)
    touch_memory(row.size + SPARE)
    try:
        cost = mover.move(peers.source_url(row.scheme, source), peers.destination_url(row.scheme, name))
        row.samples.append(Sample(cost, peers.whole(source, name)))
    except BenchError as error:
        row.failure = str(error)
    finally:
        peers.clear()


def _latest(row: Row) -> str:
    if row.failure is not None:
        return f"FAILED: {row.failure}"
    sample = row.samples[-1]
    state = "whole" if sample.whole else "NOT WHOLE"
    return f"{sample.cost.wall:8.2f} s wall {sample.cost.cpu:8.2f} s CPU  {state}"
