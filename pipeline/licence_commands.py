"""`pipeline licences`: under what terms one uses all this."""

from __future__ import annotations

from pipeline import console
from pipeline.options import Json

UNKNOWN = "UNKNOWN"


def licences(
    json: Json = False,
) -> None:
    """List the SPDX licences of the packages that facepipe needs and of the packs' weights.

    UNKNOWN: neither the package's metadata nor its licence file names one clearly; ask its makers.
    Example: pipeline licences --json
    """
    from pipeline.licences import dependencies, weights

    packages, nets = dependencies(), weights()
    unknown = [licence.name for licence in packages + nets if licence.spdx is None]
    if json:
        console.emit(
            {
                "dependencies": [licence.to_dict() for licence in packages],
                "weights": [licence.to_dict() for licence in nets],
                "unknown": unknown,
            }
        )
        return
    console.table(
        "packages",
        ["package", "version", "SPDX", "read from"],
        [[p.name, p.version, p.spdx or UNKNOWN, _from(p.source, p.stated, p.spdx)]
         for p in packages],
    )  # fmt: skip
    console.table(
        "weights",
        ["pack", "SPDX", "as stated"],
        [[net.name, net.spdx or UNKNOWN, net.stated] for net in nets],
    )
    console.result(f"{len(packages)} packages, {len(nets)} weights, {len(unknown)} UNKNOWN")
    if unknown:
        console.warn(f"no licence could be read for {', '.join(unknown)}")


def _from(source: str, stated: str, spdx: str | None) -> str:
    """Say where a licence stands; where it is not known, also what stands there."""
    return source if spdx or not stated else f"{source}: {stated}"
