"""`python -m relay`."""

from relay.cli.__main__ import run

if __name__ == "__main__":
    run()
