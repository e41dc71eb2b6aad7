"""What every command keeps to: help, --json, --quiet, pipeline.toml, variables, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.main import get_command
from typer.testing import CliRunner

from pipeline import console
from pipeline.cli import app
from pipeline.group import walk
from pipeline.schema_commands import schemas
from store.errors import FacepipeError
from tests.fit.openface_clips import write_openface
from tests.fit.study_clips import make_study
from tests.testing.clips import moving_square
from tests.testing.command import ENV
from tests.testing.reports import MadeRun

HEAVY = ["torch", "sklearn", "scipy", "pandas", "cv2", "zarr", "dask", "onnxruntime", "plotly",
         "optuna", "bokeh", "numpy", "av", "pydantic", "pydantic_core", "rich", "typer.rich_utils",
         "importlib.metadata", "importlib.resources", "asyncio"]  # fmt: skip
COMMANDS = {words: command for words, command in walk(get_command(app))}
LEAVES = {words for words, command in COMMANDS.items() if not hasattr(command, "commands")}

ALL_HELP = """
import json, sys
from typer.main import get_command
from typer.testing import CliRunner
from pipeline.cli import app
from pipeline.group import walk
told = {}
for words, _ in walk(get_command(app)):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, (words, done.output)
    told[" ".join(words)] = done.stdout
print(json.dumps({"help": told, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def helped() -> dict[str, Any]:
    """The help of every command, and what was imported to print it all."""
    done = subprocess.run(
        [sys.executable, "-c", ALL_HELP], capture_output=True, text=True, check=True, env=ENV,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    yield
    console.be_quiet(False)


def run(*args: str, code: int = 0, **env: str) -> Any:
    """Run a command in this process."""
    done = CliRunner().invoke(app, list(args), env=env)
    assert done.exit_code == code, (args, done.stdout, done.stderr, done.exception)
    return done


def told(*args: str, **env: str) -> str:
    """Return what a command fails with."""
    done = CliRunner().invoke(app, list(args), env=env)
    assert isinstance(done.exception, FacepipeError) and done.exception.exit_code == 2, done.output
    return f"{done.exception} -> {done.exception.hint}"


def test_help_imports_nothing_heavy(helped: dict[str, Any]) -> None:
    assert set(helped["help"]) == {" ".join(words) for words in COMMANDS}
    assert not set(HEAVY) & set(helped["modules"])


def test_every_help_has_an_example_and_all_of_its_text(helped: dict[str, Any]) -> None:
    for words, command in COMMANDS.items():
        shown = "".join(helped["help"][" ".join(words)].split())  # which wraps also at hyphens
        assert f"Example:pipeline{''.join(words)}" in shown and "--quiet" in shown, words
        assert words not in LEAVES or "--json" in shown, words
        for param in command.params:
            text = getattr(param, "help", None) or ""
            assert "".join(text.split()) in shown, (words, param.name)
    assert "[default: one a core, or GPU]" in " ".join(helped["help"]["extract"].split())
    assert "\n  Example: pipeline extract videos/\n" in helped["help"]["extract"]  # by itself


def test_help_names_values_alike(helped: dict[str, Any]) -> None:
    for words, command in COMMANDS.items():
        shown = helped["help"][" ".join(words)]
        assert not re.search(r"<(list|path|str|int|float|file|directory)|--no-|\.\.\.\}", shown), (
            words
        )
        for param in command.params:
            assert param.metavar is None or param.metavar == param.metavar.upper(), param.name


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, made: MadeRun, small_pack: Path
) -> Iterator[Path]:
    """The folder of a user who has extracted and fitted, and now sits in it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(made.store, folder / "features.store")
    shutil.copytree(made.store, folder / "spare.store")
    shutil.copytree(made.run, folder / "runs/one")
    shutil.copy(made.videos / "labels.csv", folder)
    (folder / "study").mkdir()
    make_study(folder / "study")  # tune needs more clips
    (folder / "pack").symlink_to(small_pack)
    (folder / "new").mkdir()
    moving_square(folder / "new/a.mp4", frames=10)
    info = {"id": "a", "view_count": 1000, "like_count": 10, "channel": "c", "channel_id": "c",
            "timestamp": 1.7e9, "epoch": 1.71e9}  # fmt: skip
    (folder / "new/a.info.json").write_text(json.dumps(info))
    rows = [f"{k + 1},{k / 10}" for k in range(10)]
    (folder / "a.csv").write_text("\n".join(["frame,AU01_r", *rows]) + "\n")
    write_openface(folder / "openface", clips=4, frames=30)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


SETTINGS = ["epochs=1", "batch_size=8", "bootstrap=100", "refit=false", "model.channels=2",
            "model.levels=1"]  # fmt: skip
TINY = [part for setting in SETTINGS for part in ("--set", setting)]
MDR = [part for setting in ("windows=2,4", "components=4", "hidden=8", "epochs=1", "folds=2",
       "bound=1") for part in ("--set", setting)]  # fmt: skip
STUDY = ["--folds", "2", "--repeats", "1", "--group", "person", *TINY]
RUNS: list[tuple[tuple[str, ...], list[str]]] = [
    (("extract",), ["new", "--pack", "pack", "--store", "a.store", "--workers", "1"]),
    (("extract",), ["new", "--pack", "pack", "--dry-run"]),
    (("fit",), ["--run", "runs/two", "--normalise", "zscore", *TINY]),
    (("score",), ["new", "--run", "runs/one", "--pack", "pack", "--workers", "1"]),
    (("overlay",), ["new/a.mp4", "--store", "a.store"]),
    (("doctor",), []),
    (("evaluate",), ["--models", "2stcn", "--normalise", "rank", *STUDY]),
    (("ablate",), STUDY),
    (("tune",), ["--trials", "1", "--inner", "2", "--group", "person", "--store",
                 "study/features.store", "--labels", "study/labels.csv", *TINY]),
    (("fit",), ["--config", "tuning/best.json", "--run", "runs/three", *TINY]),
    (("fit",), ["--model", "mdr", "--store", "study/features.store", "--labels", "study/labels.csv",
                "--run", "runs/mdr", *MDR]),
    (("store", "import"), ["openface", "--from", "csv", "--store", "faces.store"]),
    (("fit",), ["--model", "au", "--store", "faces.store", "--labels", "openface", "--run",
                "runs/au", "--set", "folds=2", "--set", "bootstrap=100", "--set", "group=folder"]),
    (("evaluate",), ["--models", "2stcn", "--explain", "--tune", "1", "--inner", "2", "--over",
                     "lr", "--store", "study/features.store", "--labels", "study/labels.csv",
                     "--out", "explained", *STUDY, "--folds", "4"]),
    (("models",), []),
    (("licences",), []),
    (("features",), ["--list", "--store", "features.store", "--pack", "pack"]),
    (("features",), ["new", "--layer", "embedding", "--store", "a.store", "--pack", "pack",
                     "--workers", "1"]),
    (("store", "tracks"), ["a.csv", "--store", "a.store"]),
    (("live",), ["--source", "new/a.mp4", "--run", "runs/one", "--pack", "pack",
                 "--out", "l.mp4"]),
    (("report",), ["--run", "runs/one", "--store", "features.store"]),
    (("schema",), []),
    (("schema",), ["store", "info"]),
    (("packs", "install"), ["lite"]),
    (("packs", "path"), ["lite"]),
    (("packs", "list"), []),
    (("packs", "verify"), ["lite"]),
    (("store", "info"), ["features.store"]),
    (("store", "verify"), ["features.store"]),
    (("store", "verify"), ["spare.store", "--repair"]),
    (("store", "digest"), ["features.store", "a.store"]),
    (("store", "digest"), ["features.store", "--arrays", "landmark, timestamp"]),
    (("store", "forget"), ["spare.store", "<b>broken.mp4", "--yes"]),
    (("store", "compact"), ["spare.store"]),
    (("store", "merge"), ["all.store", "features.store", "a.store"]),
    (("store", "export"), ["features.store", "--to", "npz", "--out", "npz"]),
    (("store", "import"), ["npz", "--from", "npz", "--store", "in.store"]),
    (("labels", "from-info"), ["new", "--out", "likes.csv"]),
]  # fmt: skip


def test_json_of_every_command_is_one_object_as_its_schema_says(
    home: Path, lite_pack: object
) -> None:
    """But for explore, which does not end: test_explore.py."""
    for words, args in RUNS:
        done = CliRunner().invoke(app, [*words, *args, "--json"])
        assert done.exit_code in ((0, 1) if words == ("doctor",) else (0,)), (
            words, done.stderr, done.exception,
        )  # fmt: skip
        assert done.stdout.count("\n") == 1, (words, done.stdout)
        conforms(" ".join(words), json.loads(done.stdout))
    assert {words for words, _ in RUNS} == LEAVES - {("demo",), ("explore",)}


def test_json_of_a_damaged_store(made: MadeRun, tmp_path: Path) -> None:
    shutil.copytree(made.store, tmp_path / "bad.store")
    chunk = max((tmp_path / "bad.store/arrays.zarr/embedding").rglob("*"), key=_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 3] ^= 255
    chunk.write_bytes(data)
    for repair in ([], ["--repair"]):
        code = 0 if repair else 1
        done = run("store", "verify", str(tmp_path / "bad.store"), *repair, "--json", code=code)
        value = json.loads(done.stdout)
        conforms("store verify", value)
        assert value["ok"] is bool(repair) and (value["problems"] or value["repaired"])


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def test_json_of_the_demo(home: Path) -> None:
    from pipeline.demo.run import _told
    from pipeline.fitting import fit_model
    from stages.extract.run import ExtractOptions, extract

    fitted = fit_model(None, home / "features.store", home / "labels.csv", home / "demo",
                       SETTINGS, home)  # fmt: skip
    summary = extract(ExtractOptions([home / "new"], home / "d.store", "pack", workers=1))
    conforms("demo", json.loads(json.dumps(_told(fitted, summary, home, 1, {"fit": 0.5}))))


def conforms(command: str, value: dict[str, Any]) -> None:
    schema = schemas()[command]
    Draft202012Validator(schema).validate(value)
    known = {key for one in (schema, *schema.get("anyOf", ())) for key in one.get("properties", ())}
    if known:
        assert set(value) <= known, command


def test_the_three_commands_come_first() -> None:
    root = get_command(app)
    assert root.list_commands(root.make_context("pipeline", ["--help"], resilient_parsing=True))[
        :3
    ] == ["extract", "fit", "score"]  # fmt: skip


READS_STORES = {"evaluate", "ablate", "tune", "fit", "report", "explore", "overlay",
                "store info", "store verify", "store digest", "store export"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(READS_STORES))
def test_what_reads_a_store_takes_its_address(name: str) -> None:
    command = COMMANDS[tuple(name.split())]
    (param,) = (p for p in command.params if p.name in ("store", "stores"))
    ctx = command.make_context(name, [], resilient_parsing=True)
    several = param.multiple or param.nargs == -1
    given: Any = ["s3://bucket/x.store"] if several else "s3://bucket/x.store"
    taken = param.process_value(ctx, given)
    assert (list(taken) if several else taken) == given


def test_every_schema_is_one_and_every_command_has_one() -> None:
    assert set(schemas()) == {" ".join(words) for words in LEAVES}
    for schema in schemas().values():
        Draft202012Validator.check_schema(schema)
    assert "there is no command 'stor info'" in told("schema", "stor", "info")


def test_quiet_leaves_errors_and_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moving_square(tmp_path / "v/a.mp4" if (tmp_path / "v").mkdir() is None else tmp_path, frames=3)
    assert "already installed" in run("packs", "install", "lite").stderr
    for args, env in (
        (("packs", "install", "lite", "--quiet"), {}),
        (("--quiet", "packs", "install", "lite"), {}),
        (("packs", "--quiet", "install", "lite"), {}),
        (("packs", "install", "lite"), {"PIPELINE_QUIET": "1"}),
    ):
        done = run(*args, **env)
        assert done.stderr == "" and "lite" in done.stdout
        console.be_quiet(False)
    Path("pipeline.toml").write_text("quiet = true\n")
    assert run("packs", "install", "lite").stderr == ""
    Path("pipeline.toml").unlink()
    console.be_quiet(False)
    assert "neither a known pack" in told("extract", "v", "--pack", "none", "--quiet")


def test_the_command_line_comes_before_the_variable_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").mkdir()
    moving_square(tmp_path / "v/a.mp4", frames=3)
    Path("pipeline.toml").write_text('[extract]\npack = "filed"\nworkers = 1\n')
    Path("other.toml").write_text('[extract]\npack = "other"\n')
    extract = ("extract", "v")
    assert "'filed'" in told(*extract)
    assert "'other'" in told("--config-file", "other.toml", *extract)
    assert "'other'" in told(*extract, PIPELINE_CONFIG_FILE="other.toml")
    assert "'variable'" in told(*extract, PIPELINE_EXTRACT_PACK="variable")
    assert "'typed'" in told(*extract, "--pack", "typed", PIPELINE_EXTRACT_PACK="variable")
    assert "'alhpa'" in told("fit", PIPELINE_FIT_SET="alhpa=1 epochs=1")
    assert "PIPELINE_EXTRACT_WORKERS: " in told(*extract, PIPELINE_EXTRACT_WORKERS="two")
    Path("pipeline.toml").write_text('[fit]\nset = "bteas=1"\n')
    assert "'bteas'" in told("fit")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[extract]\ndevize = 1\n", "pipeline.toml: extract.devize: pipeline extract knows no such "
         "option or command -> the nearest that is known is device"),
        ("[extrct]\ndevice = 1\n", "pipeline.toml: extrct: .* -> the nearest that is known is "
         "extract"),
        ("workers = 2\n", "pipeline.toml: workers: .* below its name: .*\\[extract\\]"),
        ("[store.verfy]\n", "pipeline.toml: store.verfy: .* known is verify"),
        ("[extract]\nworkers = 'two'\n", "pipeline.toml: extract.workers: .*integer"),
        ("extract = 1\n", "pipeline.toml: extract: expected a table"),
        ("[extract]\npack = {a = 1}\n", "pipeline.toml: extract.pack: expected a value"),
        ("[extract\n", "pipeline.toml: is not TOML: .*line 1"),
        ("\udcff", "pipeline.toml: is not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_names_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pipeline.toml").write_bytes(os.fsencode(text))
    assert re.match(expected, told("extract", "v"))
    assert "Usage" in run("extract", "--help").stdout


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    assert "no.toml: cannot be read" in told("--config-file", "no.toml", "models")


def test_ctrl_c_says_what_is_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.fitting.run_fit", stop)
    done = CliRunner().invoke(app, ["fit", "--set", "epochs=1"])
    assert done.exit_code == 130
    assert re.search(r"same command with --run runs/2stcn-[0-9-]+ goes on", done.stderr)
    server = nullcontext(SimpleNamespace(port=1, io_loop=SimpleNamespace(start=stop)))
    monkeypatch.setattr("pipeline.explore.server.serving", lambda *_: server)
    done = CliRunner().invoke(app, ["explore", "features.store"])  # where it is the way to end it
    assert done.exit_code == 0
    assert "interrupted" not in done.stderr


def test_completion() -> None:
    call = "import sys; sys.argv = ['pipeline']; from pipeline.cli import main; main()"
    for typed, found in (("pipeline sto", "store"), ("pipeline store ver", "verify"),
                         ("pipeline extract --dev", "--device")):  # fmt: skip
        env = {**ENV, "_PIPELINE_COMPLETE": "complete_bash", "COMP_WORDS": typed,
               "COMP_CWORD": str(len(typed.split()) - 1)}  # fmt: skip
        done = subprocess.run([sys.executable, "-c", call], env=env, capture_output=True, text=True)
        assert done.stdout.split() == [found], (done.stdout, done.stderr)
