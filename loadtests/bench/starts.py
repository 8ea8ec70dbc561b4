"""The cost of short commands: the help, a listing of a small folder, the move of one small file.

Decided here: the commands. Never here: how a run is measured (`runs.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtests.bench.processes import clean_environment
from loadtests.bench.programs import RELAY
from loadtests.bench.runs import Program, Section

STARTS: Final = 10
"""How often each command runs in one measure."""
_LOOP: Final = (
    "last=$1; place=$2; shift 2; n=0;"
    ' while [ $n -lt "$last" ]; do "$@" ${place:+"$place-$n"} || exit; n=$((n+1)); done'
)


def starts(home: Path, rclone: str) -> Section:
    """Return the section of the commands of relay and rclone, each on a folder of one file."""
    source = home / "from"
    source.mkdir()
    (source / "file").write_bytes(b"bytes")
    environment = clean_environment(home) | {"RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}"}
    conf = home / "rclone.conf"
    conf.write_text("")
    peer = [rclone, "--config", str(conf)]

    def command(words: Sequence[str], moves: bool = False) -> Callable[[str], Sequence[str]]:
        return lambda target: [
            *("sh", "-c", _LOOP, "sh", str(STARTS), str(home / target) if moves else ""),
            *words,
        ]

    file = str(source / "file")
    movers = [
        Program("`relay --help`", command([*RELAY, "--help"]), environment),
        Program("`relay ls`", command([*RELAY, "ls", str(source)]), environment),
        Program(
            "`relay migrate` of one file",
            command([*RELAY, "migrate", "-q", file], True),
            environment,
        ),
        Program("`rclone help`", command([*peer, "help"]), environment),
        Program("`rclone lsf`", command([*peer, "lsf", str(source)]), environment),
        Program("`rclone copyto` of one file", command([*peer, "copyto", file], True), environment),
    ]
    title = f"{STARTS} starts of each command; an object is one start"
    return Section("starts", title, STARTS, 0, movers, lambda _: None)
