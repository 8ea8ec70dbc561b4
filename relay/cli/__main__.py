"""The `relay` command."""

# ruff: noqa: E402 - sockets are patched before anything can import them

from relay.cooperative import patch; patch()  # fmt: skip  # noqa: E702, I001

import errno
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import StringIO
from typing import NoReturn

import click

from relay import __version__
from relay.api.log import start_logging
from relay.cli.exits import Exit
from relay.cli.terminal import ReaderGone, leave, prepare, say, say_error
from relay.errors import OutputFailed, RelayError

COMMANDS: Mapping[str, str] = {
    "cancel": "history:cancel",
    "doctor": "doctor:doctor",
    "limit": "history:limit",
    "ls": "ls:ls",
    "migrate": "migrate:migrate",
    "pause": "history:pause",
    "plan": "plan:plan",
    "remotes": "remotes:remotes",
    "report": "history:report",
    "resume": "history:resume",
    "retry": "history:retry",
    "serve": "serve:serve",
    "status": "history:status",
    "submit": "history:submit",
    "watch": "history:watch_command",
}
"""Every command, and where in `relay.cli` its function is. Only the module of the one that is given is imported: the
engine, botocore and SQLAlchemy take a third of a second that `relay --version` need not wait."""


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
"""What the system says where an output can't be written."""


class _Commands(click.Group):
    """Finds its commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one by its name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        found: click.Command = getattr(import_module(f"relay.cli.{module}"), function)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay")
def cli() -> None:
    """Move files from one cloud to another through memory, and prove each one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; no error leaves as a traceback."""
    prepare()
    start_logging(logging.WARNING)
    try:
        code = cli.main(arguments, prog_name="relay", standalone_mode=False)
    except click.ClickException as error:
        shown = StringIO()
        error.show(shown)  # with words of the command line, which a shell may have made of names
        say(shown.getvalue().rstrip("\n"), sys.stderr)
        return Exit.USAGE
    except ReaderGone:
        return Exit.VERIFIED
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except RelayError as error:
        say_error(error)
        return Exit.of(error)
    except BrokenPipeError:
        prepare(stdout_gone=True)
        return Exit.FAILED
    except OSError as error:  # click's own words: the help, and the version
        if error.errno not in FULL:
            raise
        prepare(stdout_gone=True)
        say_error(OutputFailed(f"the output can't be written ({error.strerror})"))
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.VERIFIED


def run() -> NoReturn:
    """Run one command as this process, and end with its exit code at once."""
    leave(main())


if __name__ == "__main__":
    run()
