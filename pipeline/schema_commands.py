"""`pipeline schema`: what --json prints, for machines that read it."""

from __future__ import annotations

import json as json_
from typing import Annotated, Any

import typer

from pipeline import console
from store.errors import FacepipeError


class NoSchemaError(FacepipeError, KeyError):
    """There is no command of that name."""

    __str__ = Exception.__str__  # KeyError's own __str__ would print the repr


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema (draft 2020-12) of every command's ``--json`` by command."""
    from importlib import resources  # not for --help: it imports half of the library

    files = (resources.files("pipeline") / "schemas").iterdir()
    found = [json_.loads(f.read_text("utf-8")) for f in files if f.name.endswith(".json")]
    return {_command(told): told for told in sorted(found, key=_command)}


def _command(told: dict[str, Any]) -> str:
    return str(told["title"]).removeprefix("pipeline ").removesuffix(" --json")


def schema(
    command: Annotated[
        list[str] | None, typer.Argument(help="As typed: store info. All if none is given.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="It is JSON anyway.")] = False,
) -> None:
    """Print the JSON schema of what a command prints with --json, or those of all commands.

    Example: pipeline schema store info
    """
    known = schemas()
    name = " ".join(command or [])
    if name and name not in known:
        raise NoSchemaError(f"there is no command {name!r}", f"there are {', '.join(known)}")
    console.emit(known[name] if name else known)
