"""Rung 2, threads: the naive program, eight at a time."""

from concurrent.futures import ThreadPoolExecutor

from loadtests.ladder.jobs import LOOPS, read_jobs
from loadtests.ladder.rung1_naive import move

if __name__ == "__main__":
    with ThreadPoolExecutor(LOOPS) as threads:
        for _ in threads.map(move, read_jobs()):
            pass
