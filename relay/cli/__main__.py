"""The `relay` command."""

# ruff: noqa: E402 - sockets are patched before anything can import them

from gevent import monkey; monkey.patch_all()  # fmt: skip  # noqa: E702, I001

import sys
from collections.abc import Sequence

import click

from relay import __version__
from relay.cli.doctor import doctor
from relay.cli.exits import Exit
from relay.cli.history import cancel, pause, report, resume, retry, status
from relay.cli.ls import ls
from relay.cli.migrate import migrate
from relay.cli.remotes import remotes
from relay.cli.serve import serve
from relay.cli.terminal import prepare, say_error
from relay.errors import RelayError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay")
def cli() -> None:
    """Move files from one cloud to another through memory, and prove each one."""


for command in (cancel, pause, report, resume, retry, status):
    cli.add_command(command)
cli.add_command(doctor)
cli.add_command(ls)
cli.add_command(migrate)
cli.add_command(remotes)
cli.add_command(serve)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; no error leaves as a traceback."""
    prepare()
    try:
        code = cli.main(arguments, prog_name="relay", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except RelayError as error:
        say_error(error)
        return Exit.of(error)
    except BrokenPipeError:
        prepare(stdout_gone=True)
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.VERIFIED


if __name__ == "__main__":
    sys.exit(main())
