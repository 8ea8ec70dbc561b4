from gevent import monkey; monkey.patch_all()  # fmt: skip  # noqa: E702, I001

"""deploy/gunicorn.conf.py, and a greenlet in each worker that wakes every 10 ms and records its
delay.

It writes to the file that BENCH_TICKS names, twice a second (`ticks.py` reads it): the most it was
late beyond what the worker waited for a core (or for a host that gave its core to others), how long
that was then, the CPU of the hub's thread since its wake before, the longest collection of garbage,
and how often it woke. Deleting the file starts it afresh. """

import gc  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from time import monotonic, thread_time  # noqa: E402

import gevent  # noqa: E402

exec(compile(Path("deploy/gunicorn.conf.py").read_text(), "deploy/gunicorn.conf.py", "exec"))  # noqa: S102
_relays_own = globals().get("post_worker_init")
_FILE = Path(os.environ["BENCH_TICKS"])
_PERIOD = 0.01


def _coreless() -> float:
    """Return the seconds for which this process was ready to run and had no core, or its core was
    another machine's.

    proc(5): schedstat, and the steal time of /proc/stat, which is the sum over all cores, in
    hundredths."""
    waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    with open("/proc/stat") as file:
        return waited + int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


class _Collections:
    """The longest collection of garbage, in seconds: no thread runs Python code meanwhile."""

    def __init__(self) -> None:
        self.longest, self._began = 0.0, 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """As gc.callbacks."""
        if phase == "start":
            self._began = monotonic()
        else:
            self.longest = max(self.longest, monotonic() - self._began)


def _tick(collections: _Collections) -> None:
    worst, ticks, written = (0.0, 0.0, 0.0), 0, 0.0
    while True:
        began, before, busy = monotonic(), _coreless(), thread_time()
        gevent.sleep(_PERIOD)
        now, spent = monotonic(), thread_time() - busy
        coreless = _coreless() - before
        late = max(now - began - _PERIOD - coreless, 0.0)
        worst, ticks = max(worst, (late, coreless, spent)), ticks + 1
        if now - written > 0.5:
            if written and not _FILE.exists():
                worst, ticks, collections.longest = (0.0, 0.0, 0.0), 0, 0.0
            late, coreless, spent = worst
            _FILE.write_text(f"{late} {coreless} {spent} {collections.longest} {ticks}")
            written = now


def post_worker_init(worker: object) -> None:
    """gunicorn's hook: relay's own, then the ticker."""
    if callable(_relays_own):
        _relays_own(worker)
    collections = _Collections()
    gc.callbacks.append(collections)
    gevent.spawn(_tick, collections)
