"""Rung 4, many loops: an event loop in each of eight threads, each with its share of the jobs, all
at once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import aiohttp

from loadtests.ladder.jobs import LOOPS, Job, read_jobs
from loadtests.ladder.rung3_asyncio import move


async def share(jobs: list[Job]) -> None:
    """Move one thread's share."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for job in jobs:
            tasks.create_task(move(session, job))


if __name__ == "__main__":
    every = read_jobs()
    with ThreadPoolExecutor(LOOPS) as threads:
        for _ in threads.map(lambda number: asyncio.run(share(every[number::LOOPS])), range(LOOPS)):
            pass
