"""Load on `POST /migrate`, judged by the destination's own digests and by thresholds.toml.

    locust -f loadtests/locustfile.py             then open the page that it names
    locust -f loadtests/locustfile.py --headless -u 20 -t 1m SmallFiles BigFiles
    python -m loadtests.load                      starts two clouds, relay and this, and judges

The bytes that a migration moved are its response length, so that locust's own statistics are the
throughput, with `--processes` and on several machines too."""

from __future__ import annotations

import logging
import os
import random
import sys
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

# locust puts only this file's own folder there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gevent
import urllib3
from locust import FastHttpUser, constant, constant_pacing, events, task
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtests.answers import defect_of, wrong_refusal
from loadtests.bench.measures import BenchError
from loadtests.process_metrics import ProcessMetrics
from loadtests.shapes import SHAPES
from loadtests.verdict import SLOPES_NEED_MINUTES, Figures, judge, read_thresholds

log = logging.getLogger("relay.load")
KIB, MIB = 1024, 1024 * 1024
CALIBRATION_BYTES = 256 * MIB
SMALL, BIG, HEALTH = "small", "big", "/healthz"
clouds = urllib3.PoolManager(num_pools=8, maxsize=256, retries=False, timeout=30)

if os.environ.get("LOAD_SHAPE"):
    if os.environ["LOAD_SHAPE"] not in SHAPES:
        sys.exit(f"LOAD_SHAPE={os.environ['LOAD_SHAPE']}: there are {', '.join(SHAPES)}")
    Shape = SHAPES[os.environ["LOAD_SHAPE"]]


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    """Add our options to locust's; each may come from the environment (LOAD_SOURCE and so on)."""
    for name, default, words in (
        ("source", "http://127.0.0.1:8000", "the simulated source"),
        ("destination", "http://127.0.0.1:8001", "the simulated destination"),
        (
            "slow-source",
            "http://127.0.0.1:8002",
            "a proxy with latency before the source, for SlowClouds",
        ),
        (
            "slow-destination",
            "http://127.0.0.1:8003",
            "a proxy with latency before the destination, for SlowClouds",
        ),
        (
            "thresholds",
            str(Path(__file__).with_name("thresholds.toml")),
            "what decides the exit code",
        ),
        (
            "relay-pids",
            "",
            "process ids of relay's workers on this machine, by commas: their memory is watched",
        ),
    ):
        env_var = f"LOAD_{name.upper().replace('-', '_')}"
        parser.add_argument(
            f"--{name}", default=default, env_var=env_var, help=words, include_in_web_ui=False
        )


# -- one migration


def ask_destination(url: str) -> dict[str, str] | None:
    """Return the fields that the destination answers a HEAD with, None if it does not have the
    object."""
    answer = clouds.request("HEAD", url, headers={"Want-Repr-Digest": "crc32c=1"})
    return (
        {name.lower(): value for name, value in answer.headers.items()}
        if answer.status == 200
        else None
    )


class Migrating(FastHttpUser):
    """The base of all users: a transfer by `POST /migrate`, and a check of the destination after
    it."""

    abstract = True
    host = "http://127.0.0.1:8080"
    wait_time = constant(0)
    network_timeout = connection_timeout = 300.0

    def clouds(self) -> tuple[str, str]:
        """Return where to read from and where to write to."""
        options = self.environment.parsed_options
        return options.source, options.destination

    def migrate(self, kind: str, size: int) -> None:
        """Move one object of a new name, and report it as `kind`."""
        name, (source, destination) = f"{uuid4().hex}.bin", self.clouds()
        # Ask the destination itself, also where relay writes through a slow proxy.
        really = f"{self.environment.parsed_options.destination}/load/{name}"
        order = {
            "source": f"{source}/objects/{name}?size={size}",
            "destination": f"{destination}/load/{name}",
        }
        with self.client.post("/migrate", json=order, name=kind, catch_response=True) as answer:
            fault = defect_of(answer.status_code, answer.text or "", size, ask_destination(really))
            answer.request_meta["response_length"] = 0 if fault else size
            answer.success() if fault is None else answer.failure(fault)
        # The destination keeps an entry of each object that is not deleted.
        clouds.request("DELETE", really)


class SmallFiles(Migrating):
    """Objects of 64 KiB to 1 MiB, one after the other."""

    weight = 4

    @task
    def move_small(self) -> None:
        """Move one."""
        self.migrate(SMALL, random.randint(64 * KIB, MIB))


class BigFiles(Migrating):
    """Objects of 50 to 200 MB."""

    weight = 2

    @task
    def move_big(self) -> None:
        """Move one."""
        self.migrate(BIG, random.randint(50_000_000, 200_000_000))


class Mixed(Migrating):
    """Like folders of people: many small objects, some photos, a few films."""

    weight = 3

    @task
    def move_mixed(self) -> None:
        """Move one."""
        ranges = ((64 * KIB, MIB), (MIB, 20 * MIB), (100_000_000, 200_000_000))
        self.migrate("mixed", random.randint(*random.choices(ranges, weights=(85, 14, 1))[0]))


class SlowClouds(Migrating):
    """Both clouds far away and slow, behind proxies with latency."""

    def clouds(self) -> tuple[str, str]:
        """As above."""
        options = self.environment.parsed_options
        return options.slow_source, options.slow_destination

    @task
    def move_slowly(self) -> None:
        """Move one."""
        self.migrate("slow", random.randint(MIB, 4 * MIB))


FAULTS = (
    ("source", "status(403)"),
    ("source", "status(404)"),
    ("source", "flip(70000)"),
    ("source", "dup_headers(cl2)"),
    ("source", "redirect_loop(302)"),
    ("source", "header_bomb(count)"),
    ("destination", "status(507)"),
    ("destination", "early(413,64K)"),
    ("destination", "early(201,64K,close)"),
    ("destination", "truncate_store(1000)"),
    ("destination", "store_flip(1000)"),
    ("destination", "redirect(307,http://127.0.0.1:1/)"),
)
"""The faulty side, and its fault in the simulators' grammar. None of these transfers can
succeed."""


class Saboteur(Migrating):
    """Faulty clouds: each answer must be a refusal that blames the right side, with nothing left
    behind."""

    @task
    def sabotage(self) -> None:
        """Send an impossible request."""
        side, fault = random.choice(FAULTS)
        name, (source, destination) = f"{uuid4().hex}.bin", self.clouds()
        urls = {
            "source": f"{source}/objects/{name}?size=300000",
            "destination": f"{destination}/load/{name}",
        }
        plain = urls["destination"]
        urls[side] += f"{'&' if '?' in urls[side] else '?'}fault={fault}"
        with self.client.post(
            "/migrate", json=urls, name=f"sabotage {fault}", catch_response=True
        ) as answer:
            kind, left = answer.headers.get("Content-Type", ""), ask_destination(plain) is not None
            said = wrong_refusal(answer.status_code, kind, answer.text or "", side, left)
            answer.request_meta["response_length"] = 0
            answer.success() if said is None else answer.failure(said)


class Watcher(FastHttpUser):
    """Requests /healthz continuously."""

    host = Migrating.host
    fixed_count = 1
    wait_time = constant_pacing(0.05)

    @task
    def healthz(self) -> None:
        """Ask once."""
        self.client.get("/healthz", name=HEALTH)


# -- before, while and after


class Judge:
    """The evidence on one run of the test: the calibration before it, the workers' metrics during
    it."""

    def __init__(self, environment: Environment) -> None:
        self.environment, self.options = environment, environment.parsed_options
        self.thresholds = read_thresholds(Path(self.options.thresholds))
        self.alone: float | None = None
        pids = [int(pid) for pid in self.options.relay_pids.split(",") if pid]
        self.metrics = ProcessMetrics(pids) if pids else None

    @property
    def host(self) -> str:
        """relay's URL."""
        return (self.environment.host or Migrating.host).rstrip("/")

    def check(self) -> None:
        """Raise BenchError with one clear line if relay or a cloud is unreachable."""
        named = {
            "relay": f"{self.host}/readyz",
            "source": self.options.source,
            "destination": self.options.destination,
        }
        if SlowClouds in self.environment.user_classes:
            named |= {
                "slow source": self.options.slow_source,
                "slow destination": self.options.slow_destination,
            }
        for what, url in named.items():
            try:
                clouds.request("HEAD" if what != "relay" else "GET", url)
            except urllib3.exceptions.HTTPError:
                raise BenchError(f"nothing answers at {url}, where the {what} should be") from None

    def calibrate(self) -> None:
        """Move one large object alone, to measure this machine at this hour."""
        name = f"{uuid4().hex}.bin"
        there = f"{self.options.destination}/load/{name}"
        order = {
            "source": f"{self.options.source}/objects/{name}?size={CALIBRATION_BYTES}",
            "destination": there,
        }
        began = monotonic()
        answer = clouds.request("POST", f"{self.host}/migrate", json=order, timeout=300)
        seconds = monotonic() - began
        said = defect_of(
            answer.status,
            answer.data.decode(errors="replace"),
            CALIBRATION_BYTES,
            ask_destination(there),
        )
        clouds.request("DELETE", there)
        if said is not None:
            raise BenchError(f"the calibrating transfer failed: {said}")
        self.alone = CALIBRATION_BYTES / seconds / 1e6
        log.info("one transfer alone: %.0f MB/s", self.alone)

    def watch(self) -> None:
        """Sample the workers once a second, until killed."""
        while self.metrics is not None:
            try:
                self.metrics.sample()
            except (BenchError, OSError) as error:
                log.error("a worker of relay is gone: %s", error)
                self.environment.process_exit_code = 1
                return
            gevent.sleep(1)

    def rate(self) -> float:
        """Return the MB/s of the whole run: bytes that arrived whole, over the time from first to
        last request."""
        total = self.environment.stats.total
        seconds = (total.last_request_timestamp or 0) - total.start_time
        return total.total_content_length / seconds / 1e6 if seconds > 0 else 0.0

    def figures(self) -> Figures:
        """Return the measured figures."""
        stats, metrics = self.environment.stats, self.metrics
        small, health = stats.get(SMALL, "POST"), stats.get(HEALTH, "GET")
        big, total = stats.get(BIG, "POST"), stats.total
        long_enough = metrics is not None and metrics.minutes >= SLOPES_NEED_MINUTES

        def seconds(entry: Any, share: float) -> float | None:
            return entry.get_response_time_percentile(share) / 1000 if entry.num_requests else None

        return Figures(
            requests=total.num_requests,
            failure_ratio=float(total.fail_ratio) if total.num_requests else None,
            healthz_p99=seconds(health, 0.99),
            small_p50=seconds(small, 0.5),
            small_p95=seconds(small, 0.95),
            small_p99=seconds(small, 0.99),
            of_calibration=self.rate() / self.alone if self.alone and big.num_requests else None,
            peak_rss_mib=metrics.peak_mib if metrics else None,
            disk_bytes=float(metrics.disk) if metrics else None,
            rss_slope=metrics.rss_slope if metrics and long_enough else None,
            descriptor_slope=metrics.descriptor_slope if metrics and long_enough else None,
        )

    def conclude(self) -> None:
        """Print the verdict, and let it decide the exit code."""
        print(
            f"\nthroughput: {self.rate():.0f} MB/s of verified objects; one transfer alone"
            f" {self.alone or 0:.0f} MB/s"
        )
        lines = judge(self.figures(), self.thresholds)
        for line in lines:
            print(line)
        kept = (
            all(line.met is not False for line in lines) and not self.environment.process_exit_code
        )
        print(
            "the load is within its thresholds" if kept else "THE LOAD IS NOT WITHIN ITS THRESHOLDS"
        )
        self.environment.process_exit_code = self.environment.process_exit_code or (
            0 if kept else 1
        )


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Check that relay and the clouds are reachable, and calibrate. Only in the process that
    collects the statistics, not in each of many workers."""
    if isinstance(environment.runner, WorkerRunner):
        return
    try:
        judge = environment.judge = Judge(environment)  # type: ignore[attr-defined]
        judge.check()
        judge.calibrate()
    except (BenchError, ValueError) as error:
        print(f"load: {error}", file=sys.stderr)
        environment.judge = None  # type: ignore[attr-defined]
        environment.process_exit_code = 2
        gevent.spawn(environment.runner.quit)
        return
    gevent.spawn(judge.watch)


@events.test_stop.add_listener
def end(environment: Environment, **_: Any) -> None:
    """Judge each run that was started from the page."""
    if not environment.parsed_options.headless:
        conclude(environment)


@events.quitting.add_listener
def leave(environment: Environment, **_: Any) -> None:
    """Judge the headless run: only now have all processes sent their counts."""
    conclude(environment)


def conclude(environment: Environment) -> None:
    """Print the verdict of a started run, once."""
    judge = getattr(environment, "judge", None)
    if judge is not None:
        environment.judge = None  # type: ignore[attr-defined]
        judge.conclude()
