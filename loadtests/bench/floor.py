"""The floor: the plainest loops in C (loadtests/floor/), compiled with the system's cc where there
is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from loadtests.bench.tools import ROOT

_SOURCES = ROOT / "loadtests" / "floor"
_LIBRARIES = {"splice": [], "tls": ["-lssl", "-lcrypto"]}
OF_SCHEME = {"http": "splice", "https": "tls"}


def build(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Compile into `folder`; return the programs by scheme, and a line for each that could not be
    had."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}, ["no floor in C: there is no cc here (apt-get install gcc libssl-dev)"]
    built: dict[str, Path] = {}
    missing = []
    for scheme, name in OF_SCHEME.items():
        program = folder / f"floor-{name}"
        command = [
            compiler,
            "-O2",
            "-o",
            str(program),
            str(_SOURCES / f"{name}.c"),
            *_LIBRARIES[name],
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            missing.append(
                f"no floor for {scheme}: {(done.stderr.strip().splitlines() or ['cc failed'])[0]}"
            )
        else:
            built[scheme] = program
    return built, missing
