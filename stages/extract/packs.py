"""Model packs: what is in one, which there are, and whether one is whole.

A pack is a folder with a face detector of the SCRFD protocol, a 68-landmark net and a 512-channel
recognition net, told apart by their shapes as insightface does. It may hold a ``pack.json`` with
checksums, licence and settings.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import onnx
from filelock import FileLock
from pydantic import BaseModel, Field, ValidationError

from stages.extract import lite, registry
from stages.extract.errors import FetchError, PackError
from stages.extract.graphs import dims, load, output_width, real_inputs
from stages.extract.registry import sha256_of
from store.progress import Progress, unheard

LITE = "lite"
INSIGHTFACE = ("buffalo_l", "buffalo_m", "buffalo_s", "buffalo_sc", "antelopev2")
NAMES = (LITE, *INSIGHTFACE)
RESTRICTED = "non-commercial research purposes only (insightface model zoo)"

# What each role needs, in words for messages.
_ROLES = {
    "detector": "a detector with key points (9 or 15 outputs)",
    "landmark": "a 68-landmark net (192x192 input, 136 or 3309 outputs)",
    "recognition": "a recognition net (112x112 input, 512 outputs)",
}


@dataclass(frozen=True)
class Refine:
    """How the second landmark pass crops: a square around the landmarks of the first.

    Its side is ``scale`` times the longer side of the landmarks' tight box, its centre that of the
    box moved down by ``shift`` sides (negative: up). It takes the place of the face's box: the
    landmark net gets it as insightface gives boxes, 128 of 192 px wide in the middle.
    """

    scale: float
    shift: float


@dataclass(frozen=True)
class Detection:
    """What the detector was checked with: least score, and the sizes of `detector.Detector`."""

    threshold: float = 0.5
    sizes: tuple[int, ...] = (640, 256)


@dataclass(frozen=True)
class Pack:
    """One pack, opened and found whole.

    Attributes
    ----------
    name : str
        Name of a known pack, or of the folder.
    folder : Path
    detector, landmark, recognition : Path
        The ONNX files.
    fingerprint : str
        sha256 over what features made with this pack depend on: ``refine``, and the source files'
        checksums and the converter's version where ``pack.json`` names them, else the files'
        checksums. Names and places do not count.
    files : dict of str to str
        Role to sha256 of its file.
    licence : str
    refine : Refine or None
        None: one landmark pass.
    detection : Detection
    """

    name: str
    folder: Path
    detector: Path
    landmark: Path
    recognition: Path
    fingerprint: str
    files: dict[str, str]
    licence: str
    refine: Refine | None = None
    detection: Detection = Detection()


@dataclass(frozen=True)
class PackInfo:
    """A pack known by name, whether it is installed or not."""

    name: str
    licence: str
    installed: bool
    folder: Path


class _Source(BaseModel):
    sha256: str


class _File(BaseModel):
    file: str
    sha256: str
    source: _Source | None = None


class _Manifest(BaseModel):
    """``pack.json``; keys that are only for people (provenance) are not read."""

    format: Literal[1] = 1
    name: str | None = None
    licence: str = "unknown"
    converter: int | None = None
    files: dict[str, _File] = Field(default_factory=dict)
    detection: Detection = Detection()
    refine: Refine | None = None


def packs_root() -> Path:
    """Return the folder of the packs that facepipe builds itself."""
    return registry.home() / "packs"


def known() -> list[PackInfo]:
    """List the packs known by name."""
    return [_info(name) for name in NAMES]


def path(name: str) -> Path:
    """Return a pack's folder; PackError if there is no such pack or it is not installed."""
    if name not in NAMES:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise PackError(
                f"pack {name!r}: neither a known pack ({', '.join(NAMES)}) nor a folder",
                "see: pipeline packs list",
            )
        return _unnested(folder)
    info = _info(name)
    if not info.installed:
        raise PackError(
            f"pack {name} is not installed (expected at {info.folder})",
            f"install it: pipeline packs install {name}",
        )
    return _unnested(info.folder)


def resolve(name_or_folder: str | Path) -> Pack:
    """Open a pack, known by name or a folder: find each net's role, check widths and checksums.

    Raises
    ------
    PackError
        If the pack is not there, a role is missing or filled twice, a net has other widths than
        512 and 136 (or 3309 = 1103 x 3), a file is no ONNX model, or differs from ``pack.json``.
    """
    name = str(name_or_folder)
    folder = path(name)
    manifest = _read_manifest(folder)
    for problem in _altered(folder, manifest):
        raise PackError(problem, _mend(name))
    nets = _nets(folder)
    files = {role: sha256_of(file) for role, file in nets.items()}
    restricted = name in INSIGHTFACE
    return Pack(
        name=name if restricted else manifest.name or folder.name,
        folder=folder,
        detector=nets["detector"],
        landmark=nets["landmark"],
        recognition=nets["recognition"],
        fingerprint=_fingerprint(files, manifest),
        files=files,
        licence=RESTRICTED if restricted else manifest.licence,
        refine=manifest.refine,
        detection=manifest.detection,
    )


def install(
    name: str,
    echo: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Install a pack known by name; a whole one that is there already stays as it is.

    ``echo`` is told what is going on and, for insightface's packs, the licence, line by line;
    ``progress`` how many steps of the lite pack's are done, of how many.
    Returns the pack's folder.

    Raises
    ------
    PackError
        If the name is not known, or the pack cannot be fetched or is not whole afterwards.
    """
    if name not in NAMES:
        raise PackError(
            f"pack {name!r} is not one that can be installed",
            f"known are {', '.join(NAMES)}; a folder needs no installing",
        )
    try:
        return _install(name, echo, progress)
    except OSError as error:
        raise FetchError(
            f"pack {name}: cannot write {error.filename or packs_root()}: {error.strerror}",
            "free some space, or choose another folder with FACEPIPE_HOME",
        ) from error


def _install(name: str, echo: Callable[[str], None], progress: Callable[[int, int], None]) -> Path:
    root, folder = packs_root(), _info(name).folder
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{name}.lock"):
        if name in INSIGHTFACE:
            echo(f"{name}: {RESTRICTED}; using it means accepting that licence")
        problems = verify(name) if folder.is_dir() else []
        if folder.is_dir() and not problems:
            echo(f"{name} is already installed at {folder}: verified, nothing to do")
        elif name == LITE:
            for problem in problems:
                echo(f"installing again: {problem}")
            lite.build(folder, registry.downloads(), echo, progress)
        elif problems:  # downloaded by insightface, maybe not for us: not ours to delete
            raise PackError(problems[0], _mend(name))
        else:
            _download(name, folder)
            echo(f"{name} is installed at {folder}")
        return resolve(name).folder


def verify(name: str, progress: Progress = unheard) -> list[str]:
    """Check every file of an installed pack or of a folder; ``progress`` is told of the files.

    Returns
    -------
    list of str
        One line for each problem: what `resolve` would refuse, and files that are missing or
        differ from ``pack.json``. Empty if all is well.

    Raises
    ------
    PackError
        If the pack is not known or not installed.
    """
    folder = path(name)
    try:
        manifest = _read_manifest(folder)
        problems = _altered(folder, manifest, progress)
        if not problems:
            resolve(name)
    except PackError as error:
        return [str(error)]
    return problems or (lite.differences(folder) if name == LITE else [])


def _info(name: str) -> PackInfo:
    if name == LITE:
        folder, licence = packs_root() / name, lite.LICENCE
    else:  # where insightface looks for its own
        folder, licence = Path("~/.insightface/models").expanduser() / name, RESTRICTED
    return PackInfo(name, licence, folder.is_dir(), folder)


def _download(name: str, folder: Path) -> None:
    """Let insightface fetch one of its own packs into its own folder."""
    from insightface.utils.storage import ensure_available

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints; only echo may
            ensure_available("models", name)
    except BaseException as error:
        # insightface takes a half unpacked folder for an installed pack.
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, Exception):
            raise
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise FetchError(
            f"pack {name}: insightface could not download it: {type(error).__name__}: {reason}",
            "use the lite pack, or give a folder that holds the pack's files",
        ) from error


def _unnested(folder: Path) -> Path:
    """Return the folder that holds the nets: antelopev2's archive has one folder inside."""
    inner = [p for p in folder.iterdir() if p.is_dir() and any(p.glob("*.onnx"))]
    return inner[0] if len(inner) == 1 and not any(folder.glob("*.onnx")) else folder


def _nets(folder: Path) -> dict[str, Path]:
    """Find the file of each role in a folder and check its widths."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.onnx")):
        role = _role(file, load(file, weights=False))
        if role in found:
            raise PackError(
                f"{folder}: expected one {role} net, found {found[role].name} and {file.name}",
                "keep one of them in the folder",
            )
        if role is not None:
            found[role] = file
    missing = [words for role, words in _ROLES.items() if role not in found]
    if missing:
        there = [f"{file.name} ({role})" for role, file in found.items()]
        raise PackError(
            f"{folder}: expected {' and '.join(missing)}, found only {', '.join(there) or 'none'}",
            "take another pack, such as lite, or a copy of this folder with the missing net in it",
        )
    return found


def _role(file: Path, model: onnx.ModelProto) -> str | None:
    """Route one net by its shapes, as insightface's ModelRouter does; None: not one of ours."""
    inputs, outputs = real_inputs(model), len(model.graph.output)
    shape = dims(inputs[0])
    if outputs >= 5:
        if outputs not in (9, 15):
            raise PackError(f"{file}: expected {_ROLES['detector']}, found {outputs} outputs")
        return "detector"
    if len(shape) != 4 or len(inputs) != 1 or shape[2] is None or shape[2] != shape[3]:
        return None
    side, width = shape[2], output_width(model)
    role, right = "recognition", side == 112 and width == 512
    if side == 192:
        role, right = "landmark", width in (136, 3309)
        if width == 212:  # 106 points, which are not the 68
            return None
    elif side < 112 or side % 16:
        return None
    if not right:
        raise PackError(
            f"{file}: expected {_ROLES[role]}, found {side}x{side} input, "
            f"{width or 'an unknown number of'} outputs"
        )
    return role


def _read_manifest(folder: Path) -> _Manifest:
    file = folder / "pack.json"
    if not file.exists():
        return _Manifest()
    try:
        return _Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PackError(
            f"{file}: {where + ': ' if where else ''}{first['msg']}",
            "install the pack again, or upgrade facepipe if the pack is newer",
        ) from error
    except OSError as error:
        raise PackError(f"{file}: cannot be read: {error.strerror}") from error


def _altered(folder: Path, manifest: _Manifest, progress: Progress = unheard) -> list[str]:
    """Compare the files with the checksums in ``pack.json``."""
    problems = []
    for done, entry in enumerate(manifest.files.values()):
        progress(done, len(manifest.files))
        file = folder / entry.file
        if not file.is_file():
            problems.append(f"{file}: listed in pack.json, found no such file")
        elif (found := sha256_of(file)) != entry.sha256:
            problems.append(f"{file}: expected sha256 {entry.sha256}, found {found}")
    return problems


def _fingerprint(files: dict[str, str], manifest: _Manifest) -> str:
    """Hash what the pack's outputs depend on (`Pack.fingerprint`)."""
    refine = asdict(manifest.refine) if manifest.refine else None
    basis: dict[str, object] = {"files": files, "refine": refine}
    sources = {
        role: entry.source.sha256
        for role, entry in manifest.files.items()
        if role in files and entry.source
    }
    if manifest.converter is not None and len(sources) == len(files):
        # The converted bytes may differ between versions of onnx; the values do not.
        basis = {"converter": manifest.converter, "sources": sources, "refine": refine}
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()


def _mend(name: str) -> str:
    if name == LITE:
        return "install it again: pipeline packs install lite"
    if name in INSIGHTFACE:
        return f"delete that pack's folder, then: pipeline packs install {name}"
    return "put the right file back, or correct pack.json"
