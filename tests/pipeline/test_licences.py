"""What `pipeline licences` reads out of packages' own statements, and what it does not."""

from __future__ import annotations

import json
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from pipeline.licence_commands import licences
from pipeline.licences import dependencies, of
from tests.testing.command import called

MIT = "Permission is hereby granted, free of charge, to any person obtaining\na copy of this ..."
BSD2 = "* Redistributions in binary form must reproduce the above\n  copyright notice, list\n"
BSD3 = f"{BSD2}* The name of ... may be used to endorse or\n  promote ...\n"


def package(
    folder: Path, *fields: str, licence: str = "", description: str = "", name: str = "thing"
) -> Distribution:
    """An installed package, as far as its metadata goes."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    (info / "licenses").mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *fields, "", description]
    (info / "METADATA").write_text("\n".join(lines))
    (info / "licenses/LICENSE.txt").write_text(licence)
    (info / "RECORD").write_text(f"{info.name}/licenses/LICENSE.txt,,\n")
    return Distribution.at(info)


@pytest.mark.parametrize(
    ("field", "spdx"),
    [
        ("License-Expression: mit or apache-2.0", "MIT OR Apache-2.0"),
        ("License-Expression: Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("License: MIT License", "MIT"),
        ("License: Apache License, Version 2.0", "Apache-2.0"),
        ("License: BSD 3-Clause License", "BSD-3-Clause"),
        ("License: MPL-2.0 AND MIT", "MPL-2.0 AND MIT"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT"),
        ("Classifier: License :: OSI Approved :: ISC License (ISCL)", "ISC"),
        ("Classifier: License :: OSI Approved :: Apache Software License", "Apache-2.0"),
    ],
)
def test_a_statement_becomes_spdx(tmp_path: Path, field: str, spdx: str) -> None:
    found = of(package(tmp_path, field))
    assert (found.name, found.version, found.spdx) == ("thing", "1.0", spdx)
    assert found.source in ("License-Expression", "License", "Classifier")


def test_where_a_statement_fits_several_licences_the_text_decides(tmp_path: Path) -> None:
    found = of(package(tmp_path, "License: BSD", licence=BSD3))
    assert (found.spdx, found.source) == ("BSD-3-Clause", "LICENSE.txt")
    assert of(package(tmp_path / "1", "License: BSD", licence=BSD2)).spdx == "BSD-2-Clause"
    parts = f"{BSD2} {'and much more. ' * 50} Parts are of others: {MIT} {BSD3}"
    assert of(package(tmp_path / "parts", licence=parts)).spdx == "BSD-2-Clause"
    assert of(package(tmp_path / "2", "License: " + MIT.replace("\n", " "))).spdx == "MIT"


def test_a_gnu_text_says_which_version_and_the_modules_whether_later_ones(tmp_path: Path) -> None:
    lgpl = "          GNU LESSER GENERAL PUBLIC LICENSE\n      Version 3, 29 June 2007\n and so on."
    gpl = lgpl.replace("LESSER ", "")
    assert of(package(tmp_path / "1", "License: GPL", licence=gpl)).spdx == "GPL-3.0-only"
    found = package(tmp_path / "2", "License: LGPL", licence=lgpl)
    assert (of(found).spdx, of(found).source) == ("LGPL-3.0-only", "LICENSE.txt")
    module = tmp_path / "2/thing/__init__.py"
    module.parent.mkdir()
    module.write_text("# under the License, either version 3 of the License, or (at your\n"
                      "# option) any later version.\n")  # fmt: skip
    with (tmp_path / "2/thing-1.0.dist-info/RECORD").open("a") as record:
        record.write("thing/__init__.py,,\n")
    assert of(found).spdx == "LGPL-3.0-or-later"


def test_the_readme_counts_last(tmp_path: Path) -> None:
    told = "The library is released under the **MIT License**, and so on."
    assert of(package(tmp_path, description=told)).source == "Description"
    assert of(package(tmp_path / "2", "License: ISC", description=told)).spdx == "ISC"


@pytest.mark.parametrize(
    ("field", "stated"),
    [("License: LGPL", "LGPL"), ("License: BSD", "BSD"), ("License: see LICENSE", "see LICENSE"),
     ("Classifier: License :: OSI Approved :: BSD License", "BSD License"), ("Summary: x", "")],
)  # fmt: skip
def test_what_is_not_clear_is_unknown(tmp_path: Path, field: str, stated: str) -> None:
    found = of(package(tmp_path, field))
    assert (found.spdx, found.stated) == (None, stated)


def test_all_that_is_needed_and_nothing_that_only_developers_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ("Requires-Dist: Direct_One", "Requires-Dist: absent; extra == 'gpu'",
             "Requires-Dist: linter; extra == 'dev'", "Requires-Dist: chosen[more]; extra == 'cpu'",
             "Requires-Dist: old; python_version < '3'", "Provides-Extra: cpu",
             "Provides-Extra: gpu", "Provides-Extra: dev")  # fmt: skip
    package(tmp_path, *needs, name="facepipe")
    package(tmp_path, "License: MIT", "Requires-Dist: indirect", name="direct-one")
    package(tmp_path, "Requires-Dist: facepipe", "Requires-Dist: direct-one", name="indirect")
    package(tmp_path, "Requires-Dist: extra; extra == 'more'", name="chosen")
    for name in ("linter", "old", "extra"):
        package(tmp_path, name=name)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert [found.name for found in dependencies()] == ["chosen", "direct-one", "extra", "indirect"]


def test_the_command(tmp_path: Path) -> None:
    told = json.loads(called(tmp_path, "licences", "--json").stdout)
    packages = {p["name"]: p["spdx"] for p in told["dependencies"]}
    assert packages["zarr"] == "MIT"
    copyleft = {name for name, spdx in packages.items() if spdx and "GPL" in spdx}
    assert copyleft == {"pebble"}  # as README.md says
    assert packages["pebble"] == "LGPL-3.0-or-later"
    assert not {"pytest", "ruff", "facepipe"} & set(packages)
    nets = {net["name"]: net["spdx"] for net in told["weights"]}
    assert nets["lite/detector"] == "MIT AND Apache-2.0"
    assert nets["buffalo_l"] == "LicenseRef-insightface-non-commercial-research"
    assert told["unknown"] == [name for name, spdx in (packages | nets).items() if spdx is None]


def test_an_unknown_licence_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = of(package(tmp_path, "License: BSD"))
    monkeypatch.setattr("pipeline.licences.dependencies", lambda: [found])
    licences()
    shown = capsys.readouterr()
    assert "UNKNOWN" in shown.out and "License: BSD" in shown.out
    assert "no licence could be read for thing" in shown.err
