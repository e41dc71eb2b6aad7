"""What all commands have in common: names of values, variables, --quiet, a file of options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from pipeline import config_file, console
from pipeline.errors import KEPT
from store.errors import FacepipeError

PREFIX = "PIPELINE"  # of environment variables
FIRST = ("extract", "fit", "score")  # what a new user needs, in that order
# What help calls an option's value; where nothing stands here, as the option itself.
_NOUNS = {
    **dict.fromkeys(("workers", "jobs", "every", "crops", "trials", "tune", "seed", "port"), "N"),
    **dict.fromkeys(("folds", "inner", "repeats"), "N"),
    **dict.fromkeys(("time-limit", "window"), "SECONDS"),
    **dict.fromkeys(("config", "config-file", "labels"), "FILE"),
    **dict.fromkeys(("run", "folder", "videos", "per-frame"), "FOLDER"),
    "out": "PATH",
    "crop-size": "PIXELS",
    "set": "KEY=VALUE",
}


class Group(TyperGroup):
    """Commands whose help comes at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave what nobody gave unset; typer would import pydantic to look at each None."""
        for param in self.get_params(ctx):  # also --help and completion, which come last
            _leave_unset(param)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with all of its first sentence."""
        rows = [(c, self.commands[c].get_short_help_str(1000)) for c in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class CommandLine(Group):
    """The root of the command line, which prepares each command below it.

    Every option has a variable that is named as the option is; ``--quiet`` is understood after
    every word as well as before the first.
    """

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        (quiet,) = (param for param in self.params if param.name == "quiet")
        for words, command in walk(self):
            if command is not self:
                command.params.append(quiet)
            # An example stands by itself and is not wrapped, to be copied.
            command.help = re.sub(r"\s+(?=Example: )", "\n\n\b\n", command.help or "")
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


def _leave_unset(param: Any) -> None:
    process = param.process_value

    def quick(ctx: Any, value: Any) -> Any:
        if value is not None:
            return process(ctx, value)
        return param.callback(ctx, param, None) if param.callback else None

    param.process_value = quick


def _prepare(param: Any, prefix: str) -> None:
    param.show_envvar = False  # the rule is told once, a line for each would bury the help
    name = config_file.option_name(param)
    if param.metavar is None and not getattr(param, "is_flag", False) and not _lists_choices(param):
        param.metavar = _NOUNS.get(name or "", (name or param.name).upper())
    if param.param_type_name == "argument":
        param.display_type_rich = lambda ctx: ""  # "<list[Path]>" after its name says nothing
    if name is not None and name.replace("-", "_") != param.name:
        param.envvar = f"{prefix}_{name}".upper().replace("-", "_")


def _lists_choices(param: Any) -> bool:
    described = getattr(param, "type_descriptor", None)  # where typer does without click
    return described.is_choice if described else hasattr(param.type, "choices")


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
