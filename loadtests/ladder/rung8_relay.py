"""Rung 8, relay: ten requests at a time to `POST /migrate`. The third argument is its address."""

import sys
from concurrent.futures import ThreadPoolExecutor

import requests

from loadtests.ladder.jobs import AT_ONCE, Job, read_jobs


def move(job: Job) -> None:
    """Ask relay to move one object, and believe nothing less than `verified`."""
    order = {"source": job.source, "destination": job.destination}
    answer = requests.post(f"{sys.argv[3]}/migrate", json=order, timeout=300)
    answer.raise_for_status()
    if answer.json()["state"] != "verified":
        raise RuntimeError(f"{job.destination}: {answer.json()['state']}")


if __name__ == "__main__":
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(move, read_jobs()):
            pass
