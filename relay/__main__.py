"""`python -m relay`."""

# ruff: noqa: E402 - sockets are patched before anything can import them

from relay.cooperative import patch; patch()  # fmt: skip  # noqa: E702, I001

from relay.cli.__main__ import run

if __name__ == "__main__":
    run()
