from gevent import monkey; monkey.patch_all()  # fmt: skip  # noqa: E702, I001

"""deploy/gunicorn.conf.py, and a greenlet in each worker that wakes every 10 ms and records its
delay.

It writes to the file that BENCH_TICKS names, twice a second: the most it was late beyond what the
worker waited for a core (or for a host that gave its core to others), how long that was then, and
how often it woke. Deleting the file starts it afresh. """

import os  # noqa: E402
from pathlib import Path  # noqa: E402
from time import monotonic  # noqa: E402

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


def _tick() -> None:
    worst, ticks, written = (0.0, 0.0), 0, 0.0
    while True:
        began, before = monotonic(), _coreless()
        gevent.sleep(_PERIOD)
        now = monotonic()
        coreless = _coreless() - before
        worst, ticks = max(worst, (max(now - began - _PERIOD - coreless, 0.0), coreless)), ticks + 1
        if now - written > 0.5:
            if written and not _FILE.exists():
                worst, ticks = (0.0, 0.0), 0
            _FILE.write_text(f"{worst[0]} {worst[1]} {ticks}")
            written = now


def post_worker_init(worker: object) -> None:
    """gunicorn's hook: relay's own, then the ticker."""
    if callable(_relays_own):
        _relays_own(worker)
    gevent.spawn(_tick)
