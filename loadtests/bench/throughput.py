"""Rounds of moves, interleaved: every mover once a round and section, each beginning at another
place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtests.bench.contestants import Mover
from loadtests.bench.measures import MIB, BenchError, Row, Sample
from loadtests.bench.nginx import Nginx
from loadtests.bench.processes import touch_memory
from loadtests.bench.sections import SMALL, Job, Section

SPARE = 256 * MIB
"""Memory that a move needs beside the objects: socket buffers, and the movers themselves."""
Say = Callable[[str], None]


def run_rounds(
    movers: Sequence[Mover],
    clouds: Nginx,
    sections: Sequence[Section],
    rounds: int,
    small: int,
    say: Say,
) -> list[Row]:
    """Return a row for each section and mover; `small` is the size of the object of slow movers.

    A mover that failed is not tried again; its row says why.
    """
    rows = {
        (section.name, mover.key): _row(section, mover, small)
        for section in sections
        for mover in movers
        if section.name in mover.sections
    }
    for number in range(rounds):
        for section in sections:
            of_section = [mover for mover in movers if section.name in mover.sections]
            turn = number % len(of_section)
            for mover in of_section[turn:] + of_section[:turn]:
                row = rows[section.name, mover.key]
                if row.failure is None:
                    _move(mover, section, row, clouds)
                    say(
                        f"round {number + 1}/{rounds} {section.name:9} {row.key:13} {_latest_line(row)}"
                    )
    ciphers = clouds.ciphers()
    for (_, key), row in rows.items():
        row.cipher = ciphers.get(_folder(row.section, key))
    return list(rows.values())


def _row(section: Section, mover: Mover, small: int) -> Row:
    return Row(
        mover.key, mover.label, section.name, small if mover.small else section.bytes, section.count
    )


def _folder(section: str, key: str) -> str:
    return f"{section}-{key}"


def _job(mover: Mover, section: Section, clouds: Nginx) -> Job:
    names = (SMALL.partition("/")[2],) if mover.small else section.names
    read = clouds.source_url(section.scheme, section.folder)
    write = clouds.destination_url(
        section.scheme, f"{section.folder}/{_folder(section.name, mover.key)}"
    )
    return Job(section, read, write, names)


def _move(mover: Mover, section: Section, row: Row, clouds: Nginx) -> None:
    job = _job(mover, section, clouds)
    folder = clouds.destination / section.folder / _folder(section.name, mover.key)
    folder.mkdir(exist_ok=True)
    touch_memory(row.size + SPARE)
    try:
        cost = mover.move(job)
        whole = all(
            clouds.is_whole(f"{section.folder}/{name}", str(folder / name)) for name in job.names
        )
        row.samples.append(Sample(cost, whole))
    except BenchError as error:
        row.failure = str(error)
    finally:
        clouds.clear()


def _latest_line(row: Row) -> str:
    if row.failure is not None:
        return f"FAILED: {row.failure}"
    sample = row.samples[-1]
    state = "whole" if sample.whole else "NOT WHOLE"
    return f"{sample.cost.wall:8.2f} s wall {sample.cost.cpu:8.2f} s CPU  {state}"
