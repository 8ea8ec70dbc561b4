"""`relay completion SHELL`: the script that lets a shell complete commands and flags; click writes
it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from relay.cli.exits import Exit
from relay.cli.terminal import tell

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a script that completes relay's commands and flags in SHELL.

    For bash put `eval "$(relay completion bash)"` into ~/.bashrc, for zsh the same with zsh into
    ~/.zshrc. For fish run `relay completion fish > ~/.config/fish/completions/relay.fish`."""
    made = get_completion_class(shell)
    assert made is not None  # click knows each of SHELLS
    root = context.find_root()
    # The variable by which click recognizes a request for completions: _PROGRAM_COMPLETE.
    tell(made(root.command, {}, "relay", "_RELAY_COMPLETE").source().rstrip())
    return Exit.VERIFIED
