"""What the pages say is what the program does: their commands are run, or at least parsed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pipeline.cli import app
from tests.fit.fit_clips import make_store, write_labels
from tests.testing.clips import moving_square
from tests.testing.command import ENV
from tests.testing.packs import tiny_pack
from tests.testing.runs import QUICK, labelled_videos

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "console")
# They set up an installation, which stands already, or run for minutes.
NOT_RUN = {
    "make demo",
    "make test",
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install '.[cpu]'",
}
# The only change to what a reader types: fits are as short as they can be. (And the pack that is
# installed as lite takes bright squares for faces, all of which look like one person to it.)
SHORT = " ".join(f"--set {setting}" for setting in (*QUICK, "group=clip"))
PIPELINE = f"""#!/bin/sh
case $1 in fit|evaluate) set -- "$@" {SHORT} ;; esac
exec python -m pipeline "$@"
"""
PYTHON = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'


def blocks(page: Path, *languages: str) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def typed(page: Path) -> list[str]:
    """Return the command lines of a page; of a console block those behind the prompt."""
    lines = []
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in SHELL:
            continue
        given = text.replace("\\\n", "").splitlines()
        if language == "console":
            given = [line.removeprefix("$ ") for line in given if line.startswith("$ ")]
        lines += [line for line in given if line.strip() and not line.startswith("#")]
    return lines


def bare(line: str) -> str:
    """Return a command without a comment behind it."""
    return line.partition(" #")[0].strip()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder, with `pipeline` and `python` on PATH and a pack installed."""
    tiny_pack(tmp_path / "facepipe/packs/lite")
    (tmp_path / "bin").mkdir()
    for name, text in (("pipeline", PIPELINE), ("python", PYTHON)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def shell(home: Path, command: str) -> str:
    env = {
        **ENV,
        "FACEPIPE_HOME": str(home / "facepipe"),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=home,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize(
    ("page", "left"),
    [
        ("README.md", ["runs"]),
        ("docs/tutorial.md", ["annotated.mp4", "evaluation/report.md", "report.html"]),
    ],
)
def test_every_command_of_the_page_runs(home: Path, page: str, left: list[str]) -> None:
    labelled_videos(home / "videos", frames=6)
    (home / "videos/labels.csv").rename(home / "labels.csv")
    (home / "new_videos").mkdir()
    moving_square(home / "new_videos/a.mp4", frames=8)
    ran = 0
    for line in typed(ROOT / page):
        if bare(line) not in NOT_RUN:
            shell(home, line)
            ran += 1
    assert ran >= 2
    assert (home / "features.store").is_dir()
    assert [name for name in left if not (home / name).exists()] == []


def test_what_is_not_run_stands_in_the_pages() -> None:
    lines = {
        bare(line) for page in ("README.md", "docs/tutorial.md") for line in typed(ROOT / page)
    }
    assert {line for line in lines if not re.match(r"pipeline |head ", line)} == NOT_RUN


def test_a_model_by_the_how_to_is_listed_and_fitted(home: Path) -> None:
    page = ROOT / "docs/how-to/add-a-model.md"
    (code,) = blocks(page, "python")
    assert len(code.splitlines()) <= 30
    (home / "my_model.py").write_text(code)
    write_labels(home / "labels.csv", make_store(home / "features.store"))
    models, fit, _ = typed(page)
    listed = json.loads(shell(home, f"{models} --json"))["models"]
    (told,) = (model for model in listed if model["name"] == "attentive")
    assert told["summary"] == "A weighted mean of frame scores; the weights are learned."
    assert told["source"] == "an example, ours."
    shell(home, f"{fit} --set train.epochs=1 --set bootstrap=100")
    assert (home / "runs/attentive/model.safetensors").is_file()
    assert "attentive" in (home / "runs/attentive/config.json").read_text()


def pipeline_lines() -> list[tuple[str, str]]:
    """Every `pipeline ...` that stands on a line of its own in a block of any page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        for line in re.findall(r"^(?: {4})?(?:\$ )?(pipeline .*)$", text, re.MULTILINE):
            found.append((str(page.relative_to(ROOT)), bare(line)))
    return found


@pytest.mark.parametrize("page", sorted({page for page, _ in pipeline_lines()}))
def test_commands_of_all_pages_have_these_options(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()  # explore asks for it while it reads its line
    for where, line in pipeline_lines():
        if where == page:
            words = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
            if words[0] in ("--install-completion", "--show-completion"):
                continue
            command = typer.main.get_command(app)
            while commands := getattr(command, "commands", None):
                assert words[0] in commands, line
                command = commands[words.pop(0)]
            command.make_context("pipeline", words)  # raises on what the command does not take
