"""Rung 1, naive: download to the disk, then upload, one object after the other."""

import requests

from loadtests.ladder.jobs import Job, read_jobs


def move(job: Job) -> None:
    """Move one object."""
    with requests.get(job.source, stream=True, timeout=60) as response:
        response.raise_for_status()
        with job.path.open("wb") as file:
            for piece in response.iter_content(1024):
                file.write(piece)
    with job.path.open("rb") as file:
        requests.put(job.destination, data=file, timeout=60).raise_for_status()
    job.path.unlink()


if __name__ == "__main__":
    for each in read_jobs():
        move(each)
