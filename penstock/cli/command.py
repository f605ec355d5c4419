"""The command `penstock`: its verbs, the options they share, and the one place where errors become exit codes.

Exit codes: 0 fine (also: nothing to do), 1 something failed, 2 wrong usage, name or definition, 3 busy or temporary, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from penstock.cli.failure import INTERRUPTED, tell_defect, tell_error, tell_usage
from penstock.cli.screen import Face, drop
from penstock.ground.errors import PenstockError

#: In the order of the help. Each is a module of its own that holds a command of the same name.
VERBS = ("new", "crawl", "plan", "run", "up", "query", "show", "replay", "release", "level", "completion")


class Verbs(click.Group):
    """Loads a verb's module when it is asked for, and turns errors into words and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        verb: click.Command = getattr(import_module(f"penstock.cli.{cmd_name}"), cmd_name)
        return verb

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Runs a command line and exits with its code."""
        given = list(sys.argv[1:] if args is None else args)
        face = Face(json="--json" in given, traceback="--traceback" in given)
        try:
            code = super().main(given, prog_name, complete_var, standalone_mode=False, obj=face, **extra)
        except click.Abort:
            code = INTERRUPTED
        except click.ClickException as error:
            code = tell_usage(face, error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        face = ctx.find_object(Face) or Face()
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            return tell_error(face, error)
        except BrokenPipeError:
            drop(sys.stdout)
            return 0
        except (click.ClickException, click.Abort, click.exceptions.Exit, KeyboardInterrupt, EOFError):
            raise
        except Exception as error:  # noqa: BLE001 -- whatever is left is ours to mend, and must be told so
            return tell_defect(face, error)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Stores an option that every verb has; the innermost one given counts."""
    face = ctx.find_object(Face)
    if face is not None and param.name and ctx.get_parameter_source(param.name) is not click.core.ParameterSource.DEFAULT:
        setattr(face, param.name, value)


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every verb. The command gets the `Face` as its first argument."""
    command = click.pass_obj(command)
    for option in (
        click.option("--traceback", is_flag=True, expose_value=False, callback=_keep, help="Show the whole traceback of an error."),
        click.option("--json", is_flag=True, expose_value=False, callback=_keep, help="Print one JSON document, for programs."),
        click.option("--level", metavar="NAME", expose_value=False, callback=_keep, help="The level of penstock.toml to work at."),
        click.option(
            "-C", "--project", metavar="DIR", expose_value=False, callback=_keep, help="The project's folder, or one inside it.",
            type=click.Path(exists=True, file_okay=False),
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def complete_asset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of assets that a word begins, after a `+` if it has one; none if the project cannot be loaded."""
    plus = "+" if incomplete.startswith("+") else ""
    try:
        with (ctx.find_object(Face) or Face()).open() as project:
            return [plus + name for name in project.graph.nodes if name.startswith(incomplete[len(plus) :])]
    except PenstockError:
        return []


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"penstock {version('penstock')}")
        ctx.exit()


@click.group(cls=Verbs, name="penstock", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit.")
@click.option(
    "-C", "--project", metavar="DIR", expose_value=False, callback=_keep, type=click.Path(exists=True, file_okay=False),
    help="The project's folder, or one inside it.",
)  # fmt: skip
@click.option("--level", metavar="NAME", expose_value=False, callback=_keep, help="The level of penstock.toml to work at.")
def command() -> None:
    """From raw data to served, watched predictions in one Python project; nothing lost on the way.

    `penstock new NAME` makes a project, `penstock run` makes it fresh. Each verb has its own --help.
    """
