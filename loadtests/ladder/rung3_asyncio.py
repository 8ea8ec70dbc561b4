"""Rung 3, asyncio: aiohttp and aiofiles, a queue of jobs and eight workers on one event loop; still
by the disk."""

import asyncio

import aiofiles
import aiohttp

from loadtests.ladder.jobs import LOOPS, Job, read_jobs

CHUNK_BYTES = 64 * 1024
"""Not the 1 KiB of the other rungs: each write of aiofiles is a trip to a thread, and would take
minutes of it."""


async def move(session: aiohttp.ClientSession, job: Job) -> None:
    """Move one object."""
    async with session.get(job.source) as response:
        response.raise_for_status()
        async with aiofiles.open(job.path, "wb") as file:
            async for piece in response.content.iter_chunked(CHUNK_BYTES):
                await file.write(piece)
    with job.path.open("rb") as file:
        async with session.put(job.destination, data=file) as response:
            response.raise_for_status()
    job.path.unlink()


async def work(session: aiohttp.ClientSession, jobs: "asyncio.Queue[Job]") -> None:
    """Take jobs until there are none."""
    while not jobs.empty():
        await move(session, jobs.get_nowait())


async def main(jobs: list[Job]) -> None:
    """Let the workers share the jobs."""
    queue: asyncio.Queue[Job] = asyncio.Queue()
    for job in jobs:
        queue.put_nowait(job)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as workers:
        for _ in range(LOOPS):
            workers.create_task(work(session, queue))


if __name__ == "__main__":
    asyncio.run(main(read_jobs()))
