"""The command line: `relay migrate`, `relay serve` and the other commands.

Decided here: flags, output, exit codes. Never here: what a transfer does.
"""
