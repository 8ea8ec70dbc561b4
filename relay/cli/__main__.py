"""The `relay` command."""

# ruff: noqa: E402 - Ctrl-C may come at once, and sockets must be patched before any other import

from relay.process.early_interrupt import end_on_interrupt; end_on_interrupt()  # fmt: skip  # noqa: E702, I001
from relay.descriptors import require_descriptors; require_descriptors()  # fmt: skip  # noqa: E702, I001
from relay.process.cooperative import patch; patch()  # fmt: skip  # noqa: E702, I001

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from typing import Any, NoReturn

import click

from relay import __version__
from relay.cli.commands import COMMANDS, GROUPS
from relay.cli.exits import Exit
from relay.cli.interrupt import Interrupted, look_for_signals
from relay.cli.terminal import ReaderGone, leave, prepare, say, say_error, tell, without_secrets
from relay.errors import ConfigError, OutputFailed, RelayError
from relay.errors.bugs import bug
from relay.logs.event_table import IN_COMMANDS, LogLevel
from relay.process.cooperative import importing
from relay.process.core_dumps import forbid_dumps
from relay.process.late_modules import late_modules
from relay.views.log import start_logging

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
"""System errors of an output that can't be written."""


class _Commands(click.Group):
    """A group that imports the module of a command only when that command is given."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].function.partition(":")
        with importing(), late_modules():
            found: click.Command = getattr(import_module(f"relay.cli.{module}"), function)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by groups, without importing their modules."""
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<10}", entry.help) for name, entry in group.items()])

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """As click's, which prints the help and the version here. Raises ReaderGone."""
        with _detect_gone_reader():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, which prints the help of a command here. Raises ReaderGone."""
        with _detect_gone_reader():
            return super().invoke(ctx)


@contextmanager
def _detect_gone_reader() -> Iterator[None]:
    """Raise ReaderGone if the reader of click's own output is gone, and a bug for another broken
    pipe: click would turn any of them into exit code 1 without a message."""
    try:
        yield
    except BrokenPipeError as error:
        if traceback.extract_tb(error.__traceback__)[-1].filename != click.utils.__file__:
            raise bug(error) from None
        prepare(stdout_gone=True)
        raise ReaderGone from None


VERSIONED = ("gevent", "requests", "gunicorn", "sqlalchemy", "botocore")
"""Packages whose versions belong in a bug report, besides Python's and OpenSSL's."""


def _print_versions(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    # Imported here because other commands need neither.
    import platform
    import ssl
    from importlib.metadata import version

    from relay.config import TlsLibrary
    from relay.settings_sources import load_settings
    from relay.wire.tls.choice import library_name

    try:
        library = load_settings().tls
    except ConfigError:
        library = TlsLibrary.AUTO

    tell(f"relay, version {__version__}")
    tell(
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, {platform.system()}"
        f" {platform.release()}"
    )
    tell(f"TLS by {library_name(library)}")
    tell(", ".join(f"{name} {version(name)}" for name in VERSIONED))
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    callback=_print_versions,
    help="Print versions and exit.",
)
def cli(version: bool) -> None:
    """Move files from one cloud to another through memory, and prove each object."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors are printed without a traceback, whose last
    line may hold a secret."""
    forbid_dumps()
    prepare()
    start_logging(LogLevel.WARNING, events=IN_COMMANDS)
    try:
        code = cli.main(arguments, prog_name="relay", standalone_mode=False)
    except click.ClickException as error:
        shown = StringIO()
        error.show(shown)  # it repeats words of the command line, which may be secrets
        say(without_secrets(shown.getvalue().rstrip("\n")), sys.stderr)
        return Exit.USAGE
    except ReaderGone:
        return Exit.VERIFIED
    except Interrupted as error:
        return error.code
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except RelayError as error:
        say_error(error)
        return Exit.of(error)
    except OSError as error:  # no current folder, or click could not print the help or the version
        if isinstance(error, FileNotFoundError) and _is_folder_gone():
            gone = ConfigError("the current folder was removed", hint="Change to another folder.")
            say_error(gone)
            return Exit.of(gone)
        if error.errno not in FULL:
            say_error(bug(error))
            return Exit.FAILED
        prepare(stdout_gone=True)
        say_error(OutputFailed(f"the output can't be written ({error.strerror})"))
        return Exit.FAILED
    except Exception as error:  # noqa: BLE001 - logged with its places
        say_error(bug(error))
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.VERIFIED


def _is_folder_gone() -> bool:
    """Return whether the current folder was removed: no relative path has a meaning then."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def run() -> NoReturn:
    """Run one command as this process, and exit at once with its exit code."""
    # Before the hub starts: if stdout is closed, the hub's epoll would become descriptor 1.
    prepare()
    look_for_signals()
    leave(main())


if __name__ == "__main__":
    run()
