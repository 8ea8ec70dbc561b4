"""The article's loop, alone in a process: `python naive.py SOURCE DESTINATION [CA]`."""

from __future__ import annotations

import sys

import requests


def main(source: str, destination: str, ca: str | None = None) -> None:
    """Move one object the naive way."""
    verify = ca or True
    with requests.get(source, stream=True, verify=verify, timeout=60) as response:
        response.raise_for_status()
        requests.put(
            destination, data=response.iter_content(1024), verify=verify, timeout=60
        ).raise_for_status()


if __name__ == "__main__":
    main(*sys.argv[1:])
