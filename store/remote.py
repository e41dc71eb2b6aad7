"""Stores in object storage, for reading, over fsspec: ``s3://bucket/x.store`` and the like.

SQLite needs a file, so the index is copied to a temporary one when the store is opened; the arrays
are read in place. Addresses are text: a Path would turn ``s3://b`` into ``s3:/b``.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeGuard

from store.errors import StoreError, StoreNotFoundError
from store.layout import ARRAYS, INDEX, LAYERS, NEXT_ARRAYS, OLD_ARRAYS

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # one letter would be a drive
_MANGLED = re.compile(r"[a-z][a-z0-9+.-]+:[/\\]", re.IGNORECASE)
_PACKAGES = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}


class RemoteError(StoreError):
    """Object storage cannot be reached, or refuses."""


def is_url(path: object) -> TypeGuard[str]:
    """Whether a path is the address of a store in object storage."""
    return isinstance(path, str) and _URL.match(path) is not None


def local_path(path: str | PathLike[str]) -> Path:
    """Return the path of what must lie on a disk of this machine.

    Raises
    ------
    RemoteError
        It is a URL, or one that a Path has mangled.
    """
    text = os.fspath(path)
    if is_url(text) or (_MANGLED.match(text) and not Path(text).exists()):
        raise RemoteError(
            f"{text}: expected a path on a local disk, got a URL",
            "Stores in object storage can be read only: by store.open(str) and the commands that "
            "read a store (`pipeline fit`, `evaluate`, `report`, `store info`, ...). For all else, "
            "copy the store to a disk.",
        )
    return Path(text)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in object storage; of a Path's methods it has those that readers need."""

    url: str

    def __truediv__(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    def read_text(self, encoding: str) -> str:
        """Return the text of an object.

        Raises
        ------
        FileNotFoundError
            There is none.
        RemoteError
            Object storage cannot be reached, or refuses.
        """
        fs, path = connect(self.url)
        try:
            data: bytes = fs.cat_file(path)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise _refused(self.url, error) from error
        return data.decode(encoding)

    def size(self) -> int:
        """Return the bytes of all objects below the folder."""
        fs, path = connect(self.url)
        try:
            return int(fs.du(path))
        except Exception as error:
            raise _refused(self.url, error) from error


@dataclass(frozen=True)
class RemotePaths:
    """The parts of a store in object storage, and the local copy of its index.

    The copy is deleted by ``release``, with this object, or at the end of the process.
    """

    url: str
    root: Path
    _delete: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "_delete", weakref.finalize(self, _delete_copy, self.root, os.getpid())
        )

    @property
    def label(self) -> str:
        """The store's name in messages."""
        return self.url

    @property
    def index(self) -> Path:
        """The copy of index.sqlite."""
        return self.root / INDEX

    @property
    def holder(self) -> Path:
        """Who writes: nobody does, so nothing is here."""
        return self.root / "writer.json"

    @property
    def arrays(self) -> RemoteFolder:
        """The Zarr group that readers open."""
        return RemoteFolder(self.url) / ARRAYS

    @property
    def next_arrays(self) -> RemoteFolder:
        """As in `Paths`."""
        return RemoteFolder(self.url) / NEXT_ARRAYS

    @property
    def old_arrays(self) -> RemoteFolder:
        """As in `Paths`."""
        return RemoteFolder(self.url) / OLD_ARRAYS

    @property
    def layers(self) -> RemoteFolder:
        """As in `Paths`."""
        return RemoteFolder(self.url) / LAYERS

    def release(self) -> None:
        """Delete the copy of the index."""
        self._delete()


def _delete_copy(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked from the one that made it
        shutil.rmtree(folder, ignore_errors=True)


def fetch(url: str) -> RemotePaths:
    """Copy the index of a store in object storage to a temporary file.

    Raises
    ------
    StoreNotFoundError
        There is no index.sqlite.
    RemoteError
        A package is missing; object storage cannot be reached, or refuses.
    """
    url = url.rstrip("/")
    fs, root = connect(url)
    folder = Path(tempfile.mkdtemp(prefix="facepipe-index-"))
    try:
        # A journal is there if the store was copied from a disk on which its writer was killed;
        # SQLite then rolls the copy back.
        for name in (f"{INDEX}-journal", INDEX):
            try:
                fs.get_file(f"{root}/{name}", str(folder / name))
            except FileNotFoundError:
                (folder / name).unlink(missing_ok=True)
                if name == INDEX:
                    raise StoreNotFoundError(
                        f"{url}: there is no store: expected the object {url}/{INDEX}",
                        "Copy a whole store there, for instance: aws s3 cp --recursive x.store "
                        f"{url}",
                    ) from None
        return RemotePaths(url, folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, StoreError) or not isinstance(error, Exception):
            raise
        raise _refused(url, error) from error


def connect(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it.

    Raises
    ------
    RemoteError
        A package is missing, or there is no such kind of address.
    """
    scheme = url.partition("://")[0].lower()
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(url)
    except ImportError as error:
        package, extra = _PACKAGES.get(scheme, ("", ""))
        if package:
            raise RemoteError(
                f"{url}: {scheme}:// needs the package {package}, which is not installed",
                f"pip install 'facepipe[{extra}]'",
            ) from error
        raise RemoteError(f"{url}: {_one_line(error)}", "Install what it names.") from error
    except Exception as error:
        raise _refused(url, error) from error
    return fs, str(path).rstrip("/")


def _refused(url: str, error: BaseException) -> RemoteError:
    return RemoteError(
        f"{url}: cannot be read: {_one_line(error)}",
        "Check the address, the network and the credentials (for S3: AWS_PROFILE or "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; AWS_ENDPOINT_URL where it is not Amazon's).",
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
