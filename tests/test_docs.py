"""What the pages say is what the program does: their commands are run, or at least parsed."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import store
from pipeline.cli import app
from stages.extract.registry import sha256_of
from tests.store import store_clips
from tests.testing.command import ENV
from tests.testing.packs import tiny_pack
from tests.testing.runs import QUICK
from tests.testing.small_demo import leave_demo

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "console")
RUN = ("README.md", "docs/tutorial.md", "docs/how-to/own-labels.md", "docs/how-to/add-a-pack.md",
       "docs/how-to/add-a-model.md")  # fmt: skip
# Lines of these pages that are not run, and why; all others are.
NOT_RUN = {
    "make demo": "the fixture `clone` is what it leaves, made by its code",
    "make test": "it is what runs this",
    "sudo apt-get install make python3-venv libgl1 libglib2.0-0": "changes the machine",
    "python3 -m venv .venv": "the installation stands already",
    "pip install '.[cpu]'": "the installation stands already",
}
# Pages whose blocks are only parsed, and why.
NOT_RUN_PAGES = {
    "docs/how-to/buffalo.md": "needs weights that are downloaded from where tests do not go",
    "docs/how-to/cluster.md": "needs several machines; test_cli_cluster.py has a local cluster",
    "docs/how-to/gpu.md": "needs a GPU, and changes what is installed",
    "docs/how-to/hdf5.md": "works on files that its own test makes",
}
PROGRAMS = {".", "cd", "cp", "dask", "head", "make", "mkdir", "mv", "pip", "pipeline", "python",
            "python3", "sudo"}  # fmt: skip
# The only change to what a reader types: fits are as short and as few as they can be. (And the pack
# that is installed as lite takes bright squares for faces, and all of them for one person.)
_QUICK = " ".join(f"--set {setting}" for setting in (*QUICK, "group=clip"))
PIPELINE = f"""#!/bin/sh
case $1 in fit|evaluate) set -- "$@" {_QUICK} ;; esac
case $1 in evaluate) set -- "$@" --folds 2 --repeats 1 ;; esac
exec {shlex.quote(sys.executable)} -m pipeline "$@"
"""
PYTHON = f"""#!/bin/sh
case $2 in fit|evaluate) set -- "$@" {_QUICK} ;; esac
exec {shlex.quote(sys.executable)} "$@"
"""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


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


def to_run(page: str) -> str:
    """Return the commands of a page that are run, as a script."""
    return "\n".join(line for line in typed(ROOT / page) if bare(line) not in NOT_RUN)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after `make demo`, as far as a reader meets it: `.venv/bin` and `demo`."""
    folder = tmp_path_factory.mktemp("clone")
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name, text in (("pipeline", PIPELINE), ("python", PYTHON)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
    leave_demo(folder / "demo", folder / "facepipe")
    return folder


def shell(clone: Path, script: str, folder: Path | None = None) -> str:
    """Run a script in a folder, the clone if none is given; what it does is shown if it fails."""
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=folder or clone,
        env={**ENV, "FACEPIPE_HOME": str(clone / "facepipe"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize(
    ("page", "folder", "left"),
    [
        ("README.md", "demo/first", ["features.store", "runs", "scores.csv"]),
        ("docs/tutorial.md", "demo/tutorial", ["features.store", "annotated.mp4", "runs/first",
                                               "evaluation/report.md", "report.html",
                                               "scores.csv"]),
    ],
)  # fmt: skip
def test_every_command_of_the_page_runs_on_what_the_demo_leaves(
    clone: Path, page: str, folder: str, left: list[str]
) -> None:
    shell(clone, to_run(page))
    assert [name for name in left if not (clone / folder / name).exists()] == []


@pytest.fixture
def laid_out(clone: Path, tmp_path: Path) -> Path:
    """What the tutorial has after its first step: videos, their labels and their store."""
    for name in ("videos", "features.store"):
        shutil.copytree(clone / "demo/seed-0" / name, tmp_path / name)
    (tmp_path / "videos/labels.csv").rename(tmp_path / "labels.csv")
    (tmp_path / "new_videos").mkdir()
    shutil.copy(tmp_path / "videos/p00_00.mp4", tmp_path / "new_videos")
    return tmp_path


def follow(clone: Path, folder: Path, page: str) -> None:
    shell(clone, f". {shlex.quote(str(clone / '.venv/bin/activate'))}\n{to_run(page)}", folder)


def test_own_labels_by_the_how_to_are_fitted_and_evaluated(clone: Path, laid_out: Path) -> None:
    follow(clone, laid_out, "docs/how-to/own-labels.md")
    assert list(laid_out.glob("runs/2stcn-*/config.json"))
    assert list(laid_out.glob("evaluations/*/report.md")) or list(laid_out.rglob("report.md"))


def test_a_pack_by_the_how_to_makes_a_store(clone: Path, laid_out: Path) -> None:
    page = ROOT / "docs/how-to/add-a-pack.md"
    (text,) = blocks(page, "json")
    told = json.loads(text)
    tiny_pack(laid_out / "my-pack")
    for (role, net), name in zip(told["files"].items(), ("det", "lmk", "rec"), strict=True):
        assert role in ("detector", "landmark", "recognition")
        file = (laid_out / f"my-pack/{name}.onnx").rename(laid_out / "my-pack" / net["file"])
        net["sha256"] = sha256_of(file)  # "..." there
    (laid_out / "my-pack/pack.json").write_text(json.dumps(told))
    follow(clone, laid_out, name_of(page))
    assert (laid_out / "mine.store/index.sqlite").is_file()


def test_a_model_by_the_how_to_is_listed_fitted_and_scores(clone: Path, laid_out: Path) -> None:
    page = ROOT / "docs/how-to/add-a-model.md"
    (code,) = blocks(page, "python")
    assert len(code.splitlines()) <= 30
    (laid_out / "my_model.py").write_text(code)
    follow(clone, laid_out, name_of(page))
    assert "attentive" in (laid_out / "runs/attentive/config.json").read_text()
    assert (laid_out / "scores.csv").read_text().splitlines()[1].startswith("p00_00.mp4,")
    activate = f". {shlex.quote(str(clone / '.venv/bin/activate'))}"
    listed = shell(clone, f"{activate}\npython my_model.py models --json", laid_out)
    (told,) = (m for m in json.loads(listed)["models"] if m["name"] == "attentive")
    assert told["summary"] == "A weighted mean of frame scores; the weights are learned."
    assert told["source"] == "an example, ours."


def test_what_is_not_run_stands_in_the_pages_and_all_else_is() -> None:
    with_blocks = {name_of(page) for page in PAGES if typed(page)}
    assert with_blocks == {*RUN, *NOT_RUN_PAGES}
    lines = {bare(line) for page in RUN for line in typed(ROOT / page)}
    assert set(NOT_RUN) <= lines


@pytest.mark.parametrize("page", [name_of(page) for page in PAGES if typed(page)])
def test_shell_blocks_parse_and_begin_with_known_programs(page: str) -> None:
    for block in blocks(ROOT / page, "sh"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for line in typed(ROOT / page):
        for part in re.split(r"&&|\|\|?|;", bare(line)):
            assert shlex.split(part)[0] in PROGRAMS, line


def test_the_how_to_of_hdf5_runs_from_its_first_block_to_its_last(
    clone: Path, tmp_path: Path
) -> None:
    with store.Writer(tmp_path / "features.store", store_clips.PROVENANCE) as writer:
        rows = store_clips.rows(5)
        writer.append(store_clips.record("day1/clip.mp4", rows), rows)
    activate = f". {shlex.quote(str(clone / '.venv/bin/activate'))}"
    page = ROOT / "docs/how-to/hdf5.md"
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        command = text if language in SHELL else f"python -c {shlex.quote(text)}"
        shell(clone, f"{activate}\n{command}", tmp_path)
    held = [record.clip for record in store.open(tmp_path / "theirs.store").records()]
    assert held == ["a.mp4", "b.mp4"]


def pipeline_lines() -> list[tuple[str, str]]:
    """Every `pipeline ...` on a line of its own in a block, however the block calls it."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        text = re.sub(
            r"^( {4}facepipe(?= \w)|( {4})?python my_model.py)", r"pipeline", text, flags=re.M
        )
        for line in re.findall(r"^(?: {4})?(?:\$ )?(pipeline .*)$", text, re.MULTILINE):
            found.append((name_of(page), bare(line)))
    return found


def check_command(line: str, mentioned: bool = False) -> None:
    """Raise on a command that the program does not take as it stands.

    Where one is only mentioned in a sentence, its name alone will do.
    """
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    if words[0] in ("--install-completion", "--show-completion", "--version", "--help"):
        return
    command: Any = typer.main.get_command(app)
    while (commands := getattr(command, "commands", None)) and words:
        assert words[0] in commands, line
        command = commands[words.pop(0)]
    if words or not mentioned:
        command.make_context("pipeline", words)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()  # explore asks for it while it reads its line
    yield


@pytest.mark.parametrize("page", sorted({page for page, _ in pipeline_lines()}))
def test_commands_of_all_pages_have_these_options(page: str, empty: None) -> None:
    for where, line in pipeline_lines():
        if where == page:
            check_command(line)


def alternatives(line: str) -> Iterator[str]:
    """Yield every command that a line with `a|b` in a word stands for."""
    choices = (word.split("|") for word in line.replace("\\|", "|").split())
    yield from (" ".join(words) for words in itertools.product(*choices))


def mentions(page: Path) -> list[str]:
    """Every `pipeline ...` in backticks, but for `pipeline COMMAND --help`, which is no command."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = [" ".join(line.split()) for line in re.findall(r"`(pipeline\s[^`]+)`", text)]
    return [line for line in found if line != "pipeline COMMAND --help"]


MENTIONING = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", ROOT / "store/FORMAT.md"]


@pytest.mark.parametrize("page", [name_of(page) for page in MENTIONING if mentions(page)])
def test_commands_that_sentences_and_tables_mention_exist(page: str, empty: None) -> None:
    for line in mentions(ROOT / page):
        for one in alternatives(line):
            check_command(re.sub(r"\b[KN]\b", "8", one), mentioned=True)
