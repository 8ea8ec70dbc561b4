"""Rung 8, relay: ten requests at a time to `POST /migrate`. The third argument is its address."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

from loadtests.ladder.jobs import AT_ONCE, Job, read_jobs


def move(job: Job) -> None:
    """Ask relay to move one object, and accept only `verified`."""
    order = json.dumps({"source": job.source, "destination": job.destination}).encode()
    request = Request(f"{sys.argv[3]}/migrate", order, {"Content-Type": "application/json"})
    with urlopen(request, timeout=300) as answer:  # raises for anything but a success
        state = json.load(answer)["state"]
    if state != "verified":
        raise RuntimeError(f"{job.destination}: {state}")


if __name__ == "__main__":
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(move, read_jobs()):
            pass
