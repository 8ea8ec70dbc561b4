"""The README's own lines, run unchanged except for the ports: a new user's commands must work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest

from loadtests.bench.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def shell_blocks() -> list[str]:
    """Return the text of every block of shell."""
    return re.findall(r"```sh\n(.*?)```", README, re.S)


def commands(block: str) -> Iterator[tuple[str, bool]]:
    """Yield each command of a block, and whether it is to run in the background."""
    for line in block.replace("\\\n", " ").splitlines():
        line = line.split("  #")[0].strip()
        *background, last = re.split(r"&(?=\s|$)", line)
        yield from ((command.strip(), True) for command in background)
        if last.strip():
            yield last.strip(), False


def replace_ports(text: str, *ports: str) -> str:
    """Return the text with each port replaced by a free one, since another test may use them."""
    for port in ports:
        text = re.sub(rf"\b{port}\b", str(free_port()), text)
    return text


@contextmanager
def background(command: str, environment: dict[str, str]) -> Iterator[None]:
    """Run a command that stays, until the context ends."""
    process = subprocess.Popen(["bash", "-c", f"exec env {command}"], cwd=ROOT, env=environment)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def await_port(port: int) -> None:
    """Wait until a process listens."""
    until = monotonic() + 20
    while monotonic() < until:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed (Debian: curl)")
def test_trying_it_on_this_machine() -> None:
    (block,) = [block for block in shell_blocks() if "simulators src" in block]
    block = replace_ports(block, "8000", "8001", "8080").replace(".venv/bin/", f"{BIN}/")
    relay_port = re.findall(r"http://127\.0\.0\.1:(\d+)/migrate", block)[0]
    staying = [command for command, stays in commands(block) if stays]
    asking = [command for command, stays in commands(block) if not stays]
    assert len(staying) == 3 and len(asking) == 2
    staying = [
        f"{c} --bind 127.0.0.1:{relay_port}" if c.endswith("relay serve") else c for c in staying
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RELAY_")}
    with (
        background(staying[0], environment),
        background(staying[1], environment),
        background(staying[2], environment),
    ):
        for port in re.findall(r"(?:src|dst) (\d+)", block):
            await_port(int(port))
        await_port(int(relay_port))
        answers = [
            json.loads(
                subprocess.run(
                    ["bash", "-c", line], capture_output=True, timeout=90, check=True
                ).stdout
            )
            for line in asking
        ]
    answer, received = answers
    assert answer["state"] == "verified"
    assert answer["receipt"]["level"] == "whole_digest"
    assert answer["receipt"]["digests"]["crc64nvme"] in json.dumps(received)


def test_every_named_make_target_and_program_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(
        r"make ([a-z]+)", "\n".join([*shell_blocks(), *re.findall(r"`([^`]+)`", README)])
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
    programs = set(re.findall(r"\.venv/bin/([a-z]+)", README))
    assert {"relay", "python"} <= programs
    for program in programs:
        assert (BIN / program).exists(), program


RUNS = re.compile(
    r"^(?:\$ |\.venv/bin/)?relay ((?:plan|migrate|doctor|status|report)\b(?!.*(?://|list)).*)", re.M
)
"""Commands that need no cloud: their remotes `old` and `new` are folders here, and their migration
7 is number 1."""


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_commands_of_a_page_run_in_their_order(page: str, tmp_path: Path) -> None:
    (tmp_path / "old/photos/2024").mkdir(parents=True)
    (tmp_path / "new/backup").mkdir(parents=True)
    (tmp_path / "old/photos/2024/a b.jpg").write_bytes(b"a picture")
    (tmp_path / "relay.toml").write_text(
        "".join(
            f'[remotes.{name}]\ntype = "alias"\nremote = "{tmp_path}/{name}"\n'
            for name in ("old", "new")
        )
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RELAY_")}
    environment |= {"RELAY_LEDGER": f"sqlite:///{tmp_path}/ledger.db"}
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [
        line.split("  #")[0].split(" # ")[0].replace(" 7", " 1") for line in RUNS.findall(text)
    ]
    assert len(lines) >= 4, lines
    for line in lines:
        ran = subprocess.run(
            ["bash", "-c", f"{BIN}/relay {line}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
    assert (tmp_path / "new/backup/photos/2024/a b.jpg").read_bytes() == b"a picture"
