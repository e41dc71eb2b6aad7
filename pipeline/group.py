"""What all commands have in common: help that shows brackets, variables, --quiet, a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from pipeline import config_file, console
from pipeline.errors import KEPT
from store.errors import FacepipeError

PREFIX = "PIPELINE"  # of environment variables
FIRST = ("extract", "fit", "score")  # what a new user needs, in that order


class CommandLine(TyperGroup):
    """The root of the command line, which prepares each command below it.

    Everywhere, what stands in brackets in a help text is shown: rich would take it for markup.
    Every option has a variable that is named as the option is; ``--quiet`` is understood after a
    command as well as before it.
    """

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        (quiet,) = (param for param in self.params if param.name == "quiet")
        for words, command in walk(self):
            if not hasattr(command, "commands"):
                command.params.append(quiet)
            command.help = escape(command.help) if command.help else None
            command.epilog = escape(command.epilog) if command.epilog else None
            for param in command.params:
                if param is not quiet:
                    _prepare(param, "_".join([PREFIX, *words]))

    def list_commands(self, ctx: Any) -> list[str]:
        """List the three commands first, the others as they were registered."""
        return [*FIRST, *(name for name in super().list_commands(ctx) if name not in FIRST)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note whether help is wanted: it must come whatever the configuration is like."""
        for param in self.params:  # also typer's own, which come after the others
            if param.name not in ("config_file", "quiet"):
                param.allow_from_autoenv = False  # PIPELINE_VERSION may be somebody else's
        ctx.meta[__name__] = bool({"--help", "--show-completion"} & set(args))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; where a value from the file will not do, name the file."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            raise config_file.explain(error, ctx.params["config_file"]) or error from None
        except KeyboardInterrupt as interrupt:  # typer itself would leave without a word
            console.error(f"interrupted; {str(interrupt) or KEPT}")
            raise typer.Exit(130) from None


def walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command and group as typed after `pipeline`, () for itself, and what it is."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*words, name))


def _prepare(param: Any, prefix: str) -> None:
    if getattr(param, "help", None):
        param.help = escape(param.help)
    param.show_envvar = False  # the rule is told once, a line for each would bury the help
    name = config_file.option_name(param)
    if name is not None and name.replace("-", "_") != param.name:
        param.envvar = f"{prefix}_{name}".upper().replace("-", "_")


def configure(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take the options' values from a file: the one that was named, or pipeline.toml if it is here.

    Raises
    ------
    ConfigFileError
        It is not there, or not as the commands need it.
    """
    chosen = path or config_file.DEFAULT
    if path is None and not os.path.isfile(chosen):
        return path
    try:
        ctx.default_map = config_file.read(chosen, ctx)
    except FacepipeError:
        if not ctx.meta[__name__]:
            raise
    return path


def hush(value: bool) -> None:
    """Print neither notes nor progress from now on, if that is wanted."""
    if value:
        console.be_quiet()
