"""`make demo-cutover`: a bucket that is written to all the while moves to another one, and a signed
report shows that nothing is missing.

Two simulated buckets and a writer are threads of this process; every command of relay is a process
of its own, with a ledger and a key in a temporary folder. Exit code 0 means that every command did
what it should, and that both buckets are equal at the end: the demo compares them itself."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulators.liars.s3 import S3Liar
from simulators.liars.store_habits import StoreHabits

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = 60
WRITES_SECONDS = 0.1
"""Seconds between two writes of the program that uses the old bucket."""
COMMAND_SECONDS = 60.0


class DemoFailed(Exception):  # noqa: N818 - it ends the demo, and is not an error of a library
    """A command did not do what the demo shows."""


@dataclass(eq=False)
class Writer:
    """A program that writes into a bucket: new objects, new versions, and deletions."""

    bucket: S3Liar
    writes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _random: random.Random = field(default_factory=lambda: random.Random(17))

    def fill(self) -> None:
        """Write the first objects."""
        for number in range(OBJECTS):
            self._write(number, time.time() - 86_400)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all the while during a block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _run(self) -> None:
        while not self._over.wait(WRITES_SECONDS):
            self._write(self._random.randrange(OBJECTS + 40))
            self.writes += 1

    def _write(self, number: int, modified: float | None = None) -> None:
        data = self._random.randbytes(self._random.randrange(1, 20_000))
        self.bucket.shelf.put(f"photos/{number:03}.jpg", data, "source", modified=modified)


@dataclass(frozen=True)
class Shell:
    """Runs relay's commands, and prints each as a user would type it."""

    home: Path
    environment: dict[str, str]

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command to its end, and return its output. Raises DemoFailed."""
        print(f"\n$ relay {' '.join(words)}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "relay", *words],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        print((done.stdout + done.stderr).rstrip(), flush=True)
        if done.returncode not in codes:
            raise DemoFailed(f"relay {words[0]} ended with {done.returncode}")
        return done.stdout


def main() -> int:
    """Run the demo; return its exit code."""
    with (
        tempfile.TemporaryDirectory(prefix="relay-demo-") as folder,
        S3Liar("source", StoreHabits((), 1), {"KEY"}) as old,
        S3Liar("destination", StoreHabits((), 1), {"KEY"}) as new,
    ):
        shell = _shell(Path(folder), old, new)
        try:
            _play(shell, old, new)
        except DemoFailed as error:
            print(f"demo-cutover: {error}", file=sys.stderr)
            return 1
    return 0


def _play(shell: Shell, old: S3Liar, new: S3Liar) -> None:
    writer = Writer(old)
    writer.fill()
    signers = shell.run("keys", "new", "--name", "relay@example")
    (shell.home / "allowed_signers").write_text(signers)
    places = ("old:bucket/photos/", "new:bucket/photos/")
    with writer.writing():
        _say(f"A program writes into the old bucket every {WRITES_SECONDS} s, from here on.")
        passes = shell.run("follow", *places, "--every", "2s", "--passes", "6").splitlines()
        if len(passes) != 6:
            raise DemoFailed("relay follow did not run six passes")
        _say("A rehearsal while the program still writes may show what it has just changed.")
        shell.run("cutover", "1", "--rehearse", codes=(0, 1))
    _say(f"The program has stopped, after {writer.writes} writes.")
    shell.run("cutover", "1", "--rehearse")
    shell.run("cutover", "1")
    report = shell.home / "relay-1-report"
    shell.run("check-report", str(report), "--allowed-signers", "allowed_signers")
    _show(json.loads((report / "report.json").read_text()))
    shell.run("finish", "1")
    _compare(old, new)


def _shell(home: Path, old: S3Liar, new: S3Liar) -> Shell:
    remotes = [
        f'[remotes.{name}]\ntype = "s3"\nendpoint = "{bucket.url()}"\naccess_key_id = "KEY"\n'
        'secret_access_key = "SECRET"\nregion = "us-east-1"\n'
        for name, bucket in (("old", old), ("new", new))
    ]
    (home / "relay.toml").write_text("".join(remotes))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    own = {
        "HOME": str(home),
        "XDG_DATA_HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "RELAY_CONFIG": str(home / "relay.toml"),
        "RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}",
    }
    return Shell(home, {**kept, **own})


def _say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _show(report: dict[str, Any]) -> None:
    _say("The signed report, in part:")
    shown = {name: report[name] for name in ("format", "source", "destination", "made", "cutover")}
    shown["passes"] = len(report["passes"])
    shown["objects"] = report["objects"]
    print(json.dumps(shown, indent=2, ensure_ascii=False), flush=True)


def _compare(old: S3Liar, new: S3Liar) -> None:
    """Raise DemoFailed unless the new bucket has every object of the old one, byte for byte."""
    names = old.shelf.names()
    for name in names:
        ours, theirs = old.shelf.get(name), new.shelf.get(name)
        if ours is None or theirs is None or ours.data != theirs.data:
            raise DemoFailed(f"{name} is not the same in both buckets")
    _say(f"Both buckets were compared: all {len(names)} objects are the same.")


if __name__ == "__main__":
    sys.exit(main())
