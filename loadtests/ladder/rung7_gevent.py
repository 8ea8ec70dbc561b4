"""Rung 7, gevent: greenlets held back by a BoundedSemaphore pipe with `requests`, in the plainest
possible loop."""

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402
import requests  # noqa: E402
from gevent.lock import BoundedSemaphore  # noqa: E402

from loadtests.ladder.jobs import AT_ONCE, Job, read_jobs  # noqa: E402

SLOTS = BoundedSemaphore(AT_ONCE)


def move(job: Job) -> None:
    """Move one object when there is a slot."""
    with SLOTS, requests.get(job.source, stream=True, timeout=60) as response:
        response.raise_for_status()
        requests.put(
            job.destination, data=response.iter_content(1024), timeout=60
        ).raise_for_status()


if __name__ == "__main__":
    gevent.joinall([gevent.spawn(move, each) for each in read_jobs()], raise_error=True)
