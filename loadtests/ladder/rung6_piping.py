"""Rung 6, piping: one event loop, ten at a time, and each block is sent as it arrives: no disk."""

import asyncio

import aiohttp

from loadtests.ladder.jobs import AT_ONCE, Job, read_jobs


async def move(session: aiohttp.ClientSession, slots: asyncio.Semaphore, job: Job) -> None:
    """Move one object when there is a slot."""
    async with slots, session.get(job.source) as response:
        response.raise_for_status()
        # Without a length aiohttp would send chunks.
        length = {"Content-Length": response.headers["Content-Length"]}
        async with session.put(job.destination, data=response.content, headers=length) as answer:
            answer.raise_for_status()


async def main(jobs: list[Job]) -> None:
    """Start all jobs; the semaphore holds them back."""
    slots = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for job in jobs:
            tasks.create_task(move(session, slots, job))


if __name__ == "__main__":
    asyncio.run(main(read_jobs()))
