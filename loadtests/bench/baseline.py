"""The baseline: the simplest loops in C (loadtests/baseline/), compiled with the system's cc, if it
has one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from loadtests.bench.tools import ROOT

_SOURCES = ROOT / "loadtests" / "baseline"
_LIBRARIES = {"splice": [], "tls": ["-lssl", "-lcrypto"]}
OF_SCHEME = {"http": "splice", "https": "tls"}


def build(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Compile into `folder`; return the programs by scheme, and a line for each missing one."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}, ["no baseline in C: there is no cc here (apt-get install gcc libssl-dev)"]
    built: dict[str, Path] = {}
    missing = []
    for scheme, name in OF_SCHEME.items():
        program = folder / f"baseline-{name}"
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
                f"no baseline for {scheme}: {(done.stderr.strip().splitlines() or ['cc failed'])[0]}"
            )
        else:
            built[scheme] = program
    return built, missing
