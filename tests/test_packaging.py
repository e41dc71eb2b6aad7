"""What a release is made of: the wheel that is built from this tree, and what goes with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages", "store")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist"]
    done = subprocess.run([*command, "-d", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def in_tree() -> set[str]:
    """Every file of the packages, code and data."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.is_file() and path.suffix != ".pyc"
    }


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - info == in_tree()
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"store/FORMAT.md", "pipeline/report/page/page.html"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in info)


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_its_metadata(wheel: Path) -> None:
    told = metadata(wheel)
    assert wheel.name == f"facepipe-{PROJECT['version']}-py3-none-any.whl"
    assert (told["License-Expression"], told["Requires-Python"]) == ("MIT", ">=3.11")
    required = "".join(told.get_all("Requires-Dist") or [])
    assert "onnxruntime>=" in required and "extra == 'gpu'" in required


def test_the_unpacked_wheel_runs_without_the_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import pipeline.cli, store; print(pipeline.__file__); pipeline.cli.main()"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(tmp_path / "site/pipeline/__init__.py"),
        f"facepipe {PROJECT['version']}",
    ]


def test_the_sdist_is_enough_to_build_and_test_again(built: Path) -> None:
    (found,) = built.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert in_tree() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile",
            "SECURITY.md", "docker/Dockerfile", "tests/test_packaging.py", "mkdocs.yml", ".ci/run",
            ".pre-commit-config.yaml"} <= names  # fmt: skip
    assert not [name for name in names if name.startswith((".venv", "demo", "runs", ".git/"))]


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["title"], cited["version"], cited["license"]) == (
        PROJECT["name"], PROJECT["version"], PROJECT["license"],
    )  # fmt: skip
    released = f"## [{PROJECT['version']}] - {cited['date-released']}"
    assert released in (ROOT / "CHANGELOG.md").read_text().splitlines()
    titles = [paper["title"] for paper in cited["references"]]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert all(title in readme for title in titles)


def test_the_compose_file_runs_the_image_without_rights() -> None:
    told = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    assert set(told["services"]) == {"scheduler", "worker", "extract"}
    for service in told["services"].values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert "ports" not in service
    assert told["networks"]["cluster"] == {"internal": True}
    page = (ROOT / "docs/docker.md").read_text()
    assert f"-v {told['volumes']['data']['name']}:/data" in page
    assert all("healthcheck" in told["services"][name] for name in ("scheduler", "worker"))
