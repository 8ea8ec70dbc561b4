from gevent import monkey; monkey.patch_all()  # fmt: skip  # noqa: E702, I001

"""deploy/gunicorn.conf.py, and in each worker a count of the transfers that ended there.

The count is in the folder that BENCH_MOVED names, in a file with the worker's number, and is
written when it has changed, ten times a second at most."""

import os  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

exec(compile(Path("deploy/gunicorn.conf.py").read_text(), "deploy/gunicorn.conf.py", "exec"))  # noqa: S102
_relays_own = globals().get("post_worker_init")
_FOLDER = Path(os.environ["BENCH_MOVED"])
_PERIOD = 0.1


def _count(worker: object) -> None:
    moved = 0

    def count_ended(claim: object, end: object) -> None:
        nonlocal moved
        moved += 1

    # The worker gave its own callback to its claim runner when it was made.
    worker._claim_runner.ended = count_ended  # type: ignore[attr-defined]
    written = 0
    while True:
        if moved != written:
            (_FOLDER / str(os.getpid())).write_text(str(moved))
            written = moved
        gevent.sleep(_PERIOD)


def post_worker_init(worker: object) -> None:
    """gunicorn's hook: relay's own, then the count."""
    if callable(_relays_own):
        _relays_own(worker)
    gevent.spawn(_count, worker.wsgi.extensions["relay.works"].worker)  # type: ignore[attr-defined]
