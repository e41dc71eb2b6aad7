"""Licences of what is installed and of the weights, as SPDX expressions.

Nothing is guessed: a licence is what a package's own metadata, licence file or description states,
and where that names no SPDX licence it is unknown. What a wheel bundles (opencv-python: FFmpeg) is
not looked into: its own licence files say that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "facepipe"
# For those who work on facepipe: nobody who uses it has them from us.
_LEFT_OUT_EXTRAS = {"dev"}

# What people write in place of the SPDX name, in lower case and without "license" and "the".
# "BSD" and "GPL" alone are not here: there are several.
_IN_WORDS = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software": "Apache-2.0",
    "apache version 2.0": "Apache-2.0",
    "bsd 2-clause": "BSD-2-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "isc (iscl)": "ISC",
    "mozilla public 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "historical permission notice and disclaimer (hpnd)": "HPND",
    "python software foundation": "PSF-2.0",
    "unlicense (unlicense)": "Unlicense",
    "zlib/libpng": "Zlib",
}

# What is in these licences' texts and in no other's. A text of the GNU family says which version,
# and not whether later ones may be chosen: the notice in a package's own files does.
_BSD = "Redistributions in binary form must reproduce the above copyright"
_TEXTS = (
    ("Apache-2.0", re.compile("Apache License,? Version 2.0, January 2004")),
    ("BSD-3-Clause", re.compile(f"{_BSD}.{{0,500}}may be used to endorse or promote")),
    ("BSD-2-Clause", re.compile(_BSD)),
    ("MIT", re.compile("Permission is hereby granted, free of charge, to any person obtaining")),
    ("ISC", re.compile("Permission to use, copy, modify, and/or distribute this software for any")),
    ("MPL-2.0", re.compile("Mozilla Public License,? Version 2.0")),
    ("LGPL-3.0-only", re.compile("GNU LESSER GENERAL PUBLIC LICENSE Version 3,")),
    ("LGPL-2.1-only", re.compile("GNU LESSER GENERAL PUBLIC LICENSE Version 2.1,")),
    ("GPL-3.0-only", re.compile("GNU GENERAL PUBLIC LICENSE Version 3,")),
    ("GPL-2.0-only", re.compile("GNU GENERAL PUBLIC LICENSE Version 2,")),
)
_OR_LATER = re.compile(r"either version [\d.]+ of the License, or \(at your option\) any later")
_FIELDS = ("License-Expression", "License", "Classifier", "Description")
_HEAD = 3000  # characters of a module in which its notice stands
# Bundled parts keep theirs elsewhere or under other names.
_LICENCE_FILE = re.compile(r"[^/]+\.dist-info/(licenses/)?(licen[cs]e|copying)[^/]*", re.I)
_DESCRIBED = re.compile(
    r"(?:released|licensed|distributed)\s+under\s+(?:the\s+)?\W*([\w.+ -]+?)\s+licen[cs]e", re.I
)


@dataclass(frozen=True)
class Licence:
    """What one package or one net is licensed under.

    Attributes
    ----------
    name : str
        Of the package, or ``pack/role`` of a net.
    version : str
        Empty for nets.
    spdx : str or None
        SPDX expression; None: not known.
    stated : str
        The statement that it was read from, shortened.
    source : str
        Where that stands: ``License-Expression``, ``License``, ``Classifier``, a file's name,
        ``Description``, ``pack``, or ``nowhere``.
    """

    name: str
    version: str
    spdx: str | None
    stated: str
    source: str

    def to_dict(self) -> dict[str, str | None]:
        """Return it as JSON types."""
        return dict(vars(self))


def dependencies() -> list[Licence]:
    """Return the licences of all packages that facepipe needs, directly or not, by name.

    Of the optional ones those that are installed.
    """
    return sorted((of(found) for found in _closure()), key=lambda licence: licence.name)


def weights() -> list[Licence]:
    """Return the licences of the nets of all packs known by name, installed or not."""
    from stages.extract import lite, packs

    found = [
        Licence(
            f"{packs.LITE}/{net.role}",
            "",
            _of_words(re.sub(r"\s*\([^)]*\)", "", net.licence)),  # the brackets say of what
            f"{net.licence}; {net.provenance}",
            "pack",
        )
        for net in lite.origins()
    ]
    restricted = "LicenseRef-insightface-non-commercial-research"
    return found + [
        Licence(name, "", restricted, packs.RESTRICTED, "pack") for name in packs.INSIGHTFACE
    ]


def of(package: Distribution) -> Licence:
    """Read an installed package's licence from what it says of itself, the clearest place first."""
    said = [(text, source) for text, source in _statements(package) if text.strip()]
    name, version = canonicalize_name(package.metadata["Name"]), package.version
    for text, source in said:
        if spdx := _of_words(text) or _of_text(text):
            if source not in _FIELDS and spdx.endswith("-only") and _or_later(package):
                spdx = spdx.removesuffix("-only") + "-or-later"
            return Licence(name, version, spdx, _short(text), source)
    text, source = said[0] if said else ("", "nowhere")
    return Licence(name, version, None, _short(text), source)


def _or_later(package: Distribution) -> bool:
    """Whether the notices in a package's modules let later versions of a GNU licence be chosen."""
    modules = (file for file in package.files or [] if file.suffix == ".py")
    heads = (_read(package, file)[:_HEAD].replace("#", " ") for file in modules)
    return any(_OR_LATER.search(" ".join(head.split())) for head in heads)


def _statements(package: Distribution) -> Iterator[tuple[str, str]]:
    """Yield what a package says of its licence and where, the clearest place first."""
    fields = package.metadata
    yield fields.get("License-Expression") or "", "License-Expression"
    yield fields.get("License") or "", "License"
    stated = [c for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
    names = [c.rsplit(" :: ", 1)[1] for c in stated if c.count("::") > 1 or "OSI" not in c]
    yield " AND ".join(names), "Classifier"
    for file in package.files or []:
        if _LICENCE_FILE.fullmatch(str(file)):
            yield _read(package, file), file.name
    described = _DESCRIBED.search(fields.get("Description") or str(fields.get_payload() or ""))
    yield described[1] if described else "", "Description"


def _read(package: Distribution, file: PackagePath) -> str:
    try:
        return Path(str(package.locate_file(file))).read_text(errors="replace")
    except OSError:  # listed, but not installed
        return ""


def _of_words(text: str) -> str | None:
    """Return the SPDX expression that a short statement is or means; None if it is neither."""
    if len(text) > 300:
        return None
    parts = [part.strip() for part in re.split(r",(?! version)| AND ", text, flags=re.I)]
    named = [named for part in parts if (named := _one(part))]
    return " AND ".join(dict.fromkeys(named)) if len(named) == len(parts) else None


def _one(text: str) -> str | None:
    words = re.sub(r"\b(the|licen[cs]e|v(?=\d))\b|,", " ", text.lower())
    words = " ".join(words.replace("version 2.0", "2.0").split())
    if words in _IN_WORDS:
        return _IN_WORDS[words]
    for candidate in (text, words):
        try:
            return canonicalize_license_expression(candidate)
        except InvalidLicenseExpression:
            continue
    return None


def _of_text(text: str) -> str | None:
    """Recognise the text of a licence; of several the first, since those of parts come after."""
    flat = " ".join(text.split())
    found = [(match.start(), spdx) for spdx, sentence in _TEXTS if (match := sentence.search(flat))]
    return min(found, key=lambda at_spdx: at_spdx[0])[1] if found else None


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 80 else flat[:79] + "…"


def _closure() -> Iterator[Distribution]:
    """Yield what facepipe requires and what that requires, as far as it is installed."""
    root = distribution(PROJECT)
    extras = set(root.metadata.get_all("Provides-Extra") or []) - _LEFT_OUT_EXTRAS
    todo, seen = [(root, frozenset(extras))], {(PROJECT, frozenset(extras))}
    given = {PROJECT}
    while todo:
        package, wanted = todo.pop()
        for line in package.requires or []:
            needed = Requirement(line)
            name, also = canonicalize_name(needed.name), frozenset(needed.extras)
            if (name, also) in seen or not _applies(needed, wanted):
                continue
            seen.add((name, also))
            try:
                found = distribution(name)
            except PackageNotFoundError:  # optional, or another way to the same import name
                continue
            todo.append((found, also))
            if name not in given:
                given.add(name)
                yield found


def _applies(needed: Requirement, extras: frozenset[str]) -> bool:
    """Whether a requirement holds on this machine with one of some extras, or with none."""
    marker = needed.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
