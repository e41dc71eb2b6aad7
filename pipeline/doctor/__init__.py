"""`pipeline doctor`: the traps that cost people an evening, looked for one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from pipeline import console
from pipeline.doctor import computing, disks, packages
from pipeline.doctor.finding import Finding, Level, fail
from pipeline.libraries import mend_for


def examine(store: Path) -> list[Finding]:
    """Run every check; ``store`` is where features are or will be. Never raises."""
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", packages.python),
        ("onnxruntime", packages.onnxruntimes),
        ("opencv", packages.opencvs),
        ("rotation", packages.rotation),
        ("cuda", computing.cuda),
        ("devices", computing.devices),
        ("packs", packages.model_packs),
        ("clients", packages.clients),
        ("space", lambda: disks.space(store)),
        ("file system", lambda: disks.file_system(store)),
        ("torch", computing.torch_build),
        ("threads", computing.threads),
    ]
    findings = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken installation must not hide the other findings
            first = (str(error).splitlines() or [""])[0]
            reason = f"could not be checked: {type(error).__name__}: {first}"
            mend = mend_for(error) or "install facepipe again in a new environment"
            findings.append(fail(name, reason, mend))
    return findings


def show_findings(findings: list[Finding]) -> None:
    """Print a line for each finding, and how to mend it."""
    colours = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    for finding in findings:
        line = [console.shown(f"{finding.level:4}", colours[finding.level])]
        line.append(console.shown(f" {finding.check}: {finding.message}"))
        if finding.mend:
            line += [console.shown(" -> ", "dim"), console.shown(finding.mend)]
        console.result(Text.assemble(*line))
