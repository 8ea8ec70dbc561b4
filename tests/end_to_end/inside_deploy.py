"""Run as root in mount and network namespaces of its own: start a recipe of deploy/ as written, and
report.

stdin is the recipe as JSON (tests/end_to_end/test_deploy.py makes it from the files); stdout is the
report. Only the paths that the recipe names are writable, and the program has only the recipe's
user, folder and environment."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_MDWE = 65
"""prctl(2): refuse memory that is writable and executable, as systemd's MemoryDenyWriteExecute=
does."""
NOTIFY = "relay-test-notify"
MODES = {"open": 0o1777, "own": 0o700, "hidden": 0o000}


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def open_ways(needed: list[Path]) -> None:
    """Let every user reach the files of the program, even if they are in a folder closed to
    others."""
    run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    closed = {
        path: top
        for path in needed
        for top in reversed(path.parents)
        if not top.stat().st_mode & 0o001
    }
    for number, path in enumerate(closed):
        Path(f"/mnt/{number}").mkdir()
        run("mount", "--bind", str(path), f"/mnt/{number}")
    for top in {closed[path] for path in closed}:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(top))
    for number, path in enumerate(closed):
        path.mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", f"/mnt/{number}", str(path))


def lay_out(recipe: dict[str, Any]) -> None:
    """Mount the recipe's mounts, then make everything else read-only."""
    os.umask(0o022)
    open_ways([Path(path) for path in recipe["needed"]])
    for folder in recipe["empty"]:  # the recipe's own folders are made on top of it
        run("mount", "-t", "tmpfs", "tmpfs", folder)
    for path, target in recipe["links"].items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).symlink_to(target)
    for path, text in recipe["files"].items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
        os.chown(path, recipe["user"], recipe["user"])
        os.chmod(path, 0o400)
    for path, kept in recipe["kept"].items():
        Path(path).mkdir(parents=True)
        os.chown(kept, recipe["user"], recipe["user"])
        os.chmod(kept, 0o700)
        run("mount", "--bind", kept, path)
    for path, mode in recipe["memory"].items():
        run("mount", "-t", "tmpfs", "-o", f"mode={MODES[mode]:o}", "tmpfs", path)
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        path = line.split()[1].encode().decode("unicode_escape")
        if path not in (*recipe["kept"], *recipe["memory"], "/dev/shm") and not path.startswith(
            ("/proc", "/sys", "/dev")
        ):
            subprocess.run(
                ["mount", "-o", "remount,bind,ro", path], check=False, capture_output=True
            )
    run("ip", "link", "set", "lo", "up")


def start_command(recipe: dict[str, Any], notify: str | None) -> subprocess.Popen[str]:
    """Start the recipe's command as its user."""
    rights = ["--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all"]
    who = [
        "setpriv",
        "--reuid",
        str(recipe["user"]),
        "--regid",
        str(recipe["user"]),
        "--clear-groups",
        *rights,
    ]

    def confine() -> None:
        os.umask(recipe["umask"])
        if recipe["no_writable_code"]:
            ctypes.CDLL(None).prctl(PR_SET_MDWE, 1, 0, 0, 0)

    environment = recipe["environment"] | ({"NOTIFY_SOCKET": notify} if notify else {})
    return subprocess.Popen(
        [*who, *recipe["command"]],
        cwd=recipe["folder"],
        env=environment,
        preexec_fn=confine,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ask(
    recipe: dict[str, Any], method: str, path: str, body: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Make one request to the server."""
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=30)
    headers = {"Content-Type": "application/json", "Prefer": "respond-async"}
    if recipe["token"]:
        headers["Authorization"] = f"Bearer {recipe['token']}"
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def listens() -> bool:
    """Return whether the server's port takes connections: until then each health check would be
    a useless start of Python."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", 8080)) == 0


def is_healthy(recipe: dict[str, Any]) -> bool:
    """Return whether the recipe's own health check passes, or ours if it has none."""
    check = recipe["health"] or [sys.executable, "-c", recipe["default_health"]]
    return (
        subprocess.run(
            check, env=recipe["environment"], capture_output=True, check=False
        ).returncode
        == 0
    )


def run_once(recipe: dict[str, Any], notified: socket.socket | None) -> dict[str, Any]:
    """Start the server, ask it, stop it; return the observations."""
    server = start_command(
        recipe, f"@{NOTIFY}" if notified else None
    )  # '@' for the zero byte, as systemd writes it
    until = time.monotonic() + 40
    while not (listens() or server.poll() is not None or time.monotonic() > until):
        time.sleep(0.05)
    while not (up := is_healthy(recipe)) and server.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    seen: dict[str, Any] = {"healthy": up}
    if up:
        order = {"source": "https://old.example/a", "destination": "https://new.example/b"}
        seen["ready"] = ask(recipe, "GET", "/readyz")
        seen["accepted"] = ask(recipe, "POST", "/migrate", json.dumps(order))[0]
        seen["remote"] = ask(
            recipe, "POST", "/migrate", json.dumps(order | {"source": "nowhere:a"})
        )[0]
        seen["migrations"] = len(ask(recipe, "GET", "/migrations")[1]["migrations"])
        seen["notified"] = notified.recv(4096).decode() if notified else None
    server.send_signal(signal.SIGTERM)
    try:
        seen["output"] = server.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
        server.kill()
        seen["output"] = server.communicate()[0]
    return seen | {"exit": server.returncode}


def main() -> int:
    """Start the recipe, and again as after a restart of its container or unit."""
    recipe = json.load(sys.stdin)
    lay_out(recipe)
    notified = None
    if recipe["notify"]:
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notified.bind(f"\0{NOTIFY}")
        notified.settimeout(30)
    json.dump([run_once(recipe, notified) for _ in range(recipe["times"])], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
