"""The command line: parses, calls the project, prints. No decisions here."""

from __future__ import annotations

from penstock.cli.command import command


def main() -> None:
    """Runs the command line of this process and exits with its code."""
    command.main(prog_name="penstock")
