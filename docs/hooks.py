"""What mkdocs makes of the code while it builds: pages that cannot go out of date.

`reference/commands.md` is what typer says of the commands, `reference/store-format.md` is
store/FORMAT.md, `reference/settings.md` is stages/fit/config.py, `reference/schemas.md` is
pipeline/schemas/.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FORMAT = "reference/store-format.md"
# What a browser would fetch by itself.
FETCHED = re.compile(
    r'<(?:script|img|iframe)[^>]*\ssrc="?(?:https?:)?//[^>]*|'
    r'<link[^>]*\srel="?(?:stylesheet|preconnect|preload)[^>]*href="?(?:https?:)?//[^>]*'
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the code."""
    pages = {
        "reference/commands.md": commands(),
        FORMAT: (ROOT / "store/FORMAT.md").read_text(encoding="utf-8"),
        "reference/settings.md": settings(),
        "reference/schemas.md": schemas(),
    }
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to the specification, right for who reads docs/ as files, lead to its page."""
    return markdown.replace("(../store/FORMAT.md)", f"({FORMAT})")


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch something over the network."""
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri}: not self-contained: {found[0]}")
    return output


def commands() -> str:
    """Return all commands with their options, as typer documents them."""
    command = [sys.executable, "-m", "typer", "pipeline.cli", "utils", "docs"]
    done = subprocess.run(
        [*command, "--name", "pipeline", "--title", "Commands"],
        cwd=ROOT,
        env={**os.environ, "TYPER_USE_RICH": "0"},  # rich takes "[default: ...]" for markup
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def settings() -> str:
    """Return a table of the settings of `pipeline fit` with their defaults."""
    from stages.fit.config import FitConfig, SplitConfig, TrainConfig

    lines = [
        "# Settings",
        "",
        "Given to `pipeline fit`, `evaluate` and `ablate` as `--set key=value`. `model.NAME=value`",
        "sets an argument of the model itself: see [the models](models.md).",
        "",
        "| key | default | |",
        "|---|---|---|",
    ]
    groups = (("", FitConfig), ("split.", SplitConfig), ("train.", TrainConfig))
    for prefix, group in groups:
        for name, field in group.model_fields.items():
            if name in ("model_options", "split", "train"):
                continue
            default = "none" if field.default is None else field.default
            told = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{prefix}{name}` | `{default}` | {told} |")
    return "\n".join([*lines, ""])


def schemas() -> str:
    """Return a table for each command of what it prints with --json."""
    from pipeline import schema_commands

    lines = [
        "# JSON of each command",
        "",
        "What `--json` prints, as one object on one line: its keys, a dot between a key and those",
        "within it, `[]` where there is a list of them, `*` for any name. Keys in **bold** are",
        "always there. `pipeline schema COMMAND` prints the JSON schema itself (draft 2020-12).",
        "[The command line](../console.md#json) says what a later version may change.",
    ]
    for command, told in schema_commands.schemas().items():
        lines += ["", f"## {command}", ""]
        rows = [f"| {key} | {kind} | {text} |" for key, kind, text in _keys(told, "")]
        lines += ["| key | type | |", "|---|---|---|", *rows] if rows else ["Any object."]
    return "\n".join([*lines, ""])


def _keys(told: dict[str, Any], above: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, type and meaning of what a schema describes, depth first."""
    always = told.get("required", ())
    inner = dict(told.get("properties", {}))
    if isinstance(told.get("additionalProperties"), dict):
        inner["*"] = told["additionalProperties"]
    for key, value in inner.items():
        name = f"{above}{key}"
        shown = f"**`{name}`**" if key in always else f"`{name}`"
        yield shown, _kind(value), str(value.get("description", "")).replace("|", "\\|")
        for one in (value, value.get("items", {}), *value.get("anyOf", ())):
            yield from _keys(one, f"{name}[]." if one is value.get("items") else f"{name}.")


def _kind(value: dict[str, Any]) -> str:
    """Return the type of a value in a word or two."""
    if "anyOf" in value:
        return " or ".join(_kind(one) for one in value["anyOf"])
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    kinds = value.get("type", "any")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)
