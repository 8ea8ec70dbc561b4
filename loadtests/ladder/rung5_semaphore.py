"""Rung 5, a semaphore: the many loops, but only ten objects at a time in all of them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

import aiohttp

from loadtests.ladder.jobs import AT_ONCE, LOOPS, Job, read_jobs
from loadtests.ladder.rung3_asyncio import move

SLOTS = BoundedSemaphore(AT_ONCE)


async def held_back(session: aiohttp.ClientSession, job: Job) -> None:
    """Move one object when there is a slot."""
    # In a thread: eight loops share the semaphore, and a wait here would block this loop.
    await asyncio.to_thread(SLOTS.acquire)
    try:
        await move(session, job)
    finally:
        SLOTS.release()


async def share(jobs: list[Job]) -> None:
    """Move one thread's share."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for job in jobs:
            tasks.create_task(held_back(session, job))


if __name__ == "__main__":
    every = read_jobs()
    with ThreadPoolExecutor(LOOPS) as threads:
        for _ in threads.map(lambda number: asyncio.run(share(every[number::LOOPS])), range(LOOPS)):
            pass
