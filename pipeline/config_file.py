"""Options from a file: ``pipeline.toml``, a table per command, its keys the options' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from store.errors import FacepipeError

DEFAULT = Path("pipeline.toml")


class ConfigFileError(FacepipeError, ValueError):
    """The file cannot be read, or says something that no command understands."""


def read(path: Path, ctx: typer.Context) -> dict[str, Any]:
    """Return what a file says as click's ``default_map`` for the command line of ``ctx``.

    Raises
    ------
    ConfigFileError
        Names the file, the key and what was expected.
    """
    import tomllib  # not for --help, which mostly meets no file

    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigFileError(
            f"{path}: cannot be read ({error.strerror})", "name another with --config-file"
        ) from None
    except ValueError as error:  # TOMLDecodeError, or bytes that are no UTF-8
        raise ConfigFileError(f"{path}: is not TOML: {error}", "see docs/console.md") from None
    return _table(values, ctx.command, str(path), "")


def option_name(param: Any) -> str | None:
    """Return an option's long name without dashes in front; None of what is no such option."""
    long = [opt for opt in param.opts if opt.startswith("--")]
    return max(long, key=len).removeprefix("--") if long else None


def _table(values: Mapping[str, Any], command: Any, file: str, prefix: str) -> dict[str, Any]:
    below = getattr(command, "commands", {})
    options = {option_name(param): param for param in command.params if not param.is_eager}
    options.pop(None, None)
    taken: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{file}: {prefix}{key}"
        name = key.replace("_", "-")
        if key in below:
            if not isinstance(value, Mapping):
                raise ConfigFileError(f"{where}: expected a table [{prefix}{key}], got {value!r}")
            taken[key] = _table(value, below[key], file, f"{prefix}{key}.")
        elif name in options:
            taken[options[name].name] = _value(value, options[name], where)
        else:
            raise _unknown(where, key, prefix, [*below, *map(str, options)], _owners(name, below))
    return taken


def _value(value: Any, param: Any, where: str) -> Any:
    """Return a value as click takes it."""
    if isinstance(value, Mapping):
        raise ConfigFileError(f"{where}: expected a value, got a table")
    if getattr(param, "multiple", False) and not isinstance(value, list):
        value = [value]
    return value


def explain(error: Any, path: Path | None) -> ConfigFileError | None:
    """Return what to say of a value that will not do, if it is the file's or a variable's."""
    ctx, param = error.ctx, error.param
    source = ctx.get_parameter_source(param.name) if ctx and param else None
    if source is not None and source.name == "ENVIRONMENT":
        variable = param.envvar or f"{ctx.auto_envvar_prefix}_{param.name.upper()}"
        return ConfigFileError(f"{variable}: {error.message}", "it is set in the environment")
    if source is None or source.name != "DEFAULT_MAP":
        return None
    words = [option_name(param)]
    while ctx.parent is not None:
        words.insert(0, ctx.info_name)
        ctx = ctx.parent
    return ConfigFileError(f"{path or DEFAULT}: {'.'.join(map(str, words))}: {error.message}")


def _owners(name: str, commands: Mapping[str, Any]) -> list[str]:
    """Return the commands that have an option of that name."""
    return [c for c, command in commands.items() if name in map(option_name, command.params)]


def _unknown(
    where: str, key: str, prefix: str, known: list[str], owners: list[str]
) -> ConfigFileError:
    what = f"pipeline {prefix.replace('.', ' ')}".strip()
    if owners:
        tables = ", ".join(f"[{prefix}{owner}]" for owner in owners)
        hint = f"the options of a command stand below its name: {tables}"
        return ConfigFileError(f"{where}: {what} knows no such option or command", hint)
    import difflib

    nearest = difflib.get_close_matches(key.replace("_", "-"), known, 1, cutoff=0.0)
    hint = f"the nearest that is known is {nearest[0]}" if nearest else ""
    return ConfigFileError(f"{where}: {what} knows no such option or command", hint)
