"""What a fit hangs on: store, labels, settings and versions, as a run notes them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from stages.fit.config import FitConfig
from stages.fit.labels import Labels
from stages.fit.spans import FeatureStore, Stream, arrays_of
from stages.fit.unfinished import Identity
from store.companion import open_companion

# One store, or several that are read as one.
StorePath = str | os.PathLike[str] | Sequence[Path] | list[str]
VERSIONED = ("torch", "numpy", "scipy", "scikit-learn", "dask", "zarr", "safetensors")


def layers_of(source: FeatureStore, stream: Stream) -> dict[str, Any]:
    """Return what the layers of a stream were made with, by name; {} without any."""
    made_later = source.layers
    names = [name for name in arrays_of(stream) if name in made_later]
    return {name: made_later[name].provenance for name in names}


def identity_of(source: FeatureStore, config: FitConfig, labels: Labels) -> Identity:
    """Return what an unfinished fit is known by; not the budget, which does not change it."""
    used = set(labels.frame["clip"])
    rows = source.iter_rows(
        ("clip", "frames", "valid_frames", "content_sha256"),
        where="track = 0 AND valid_frames > 0",
        by_start=True,
    )
    clips = [row for row in rows if row[0] in used]
    # A fit that reads neither is known as it was before there were any.
    more: list[Any] = [layers] if (layers := layers_of(source, config.stream)) else []
    if config.features is not None:
        more.append(open_companion(config.features).about)
    known = json.dumps([dict(source.provenance), clips, *more], sort_keys=True)
    return {
        "settings": config.model_dump(mode="json", exclude={"budget"}),
        "labels": labels.sha256,
        "store": hashlib.sha256(known.encode()).hexdigest(),
        "versions": versions(),
    }


def provenance_of(
    source: FeatureStore, store_path: StorePath, labels: Labels, config: FitConfig
) -> dict[str, object]:
    """Return what provenance.json holds."""
    layers = layers_of(source, config.stream)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "store_path": (
            str(store_path)
            if isinstance(store_path, str | os.PathLike)
            else [str(path) for path in store_path]
        ),
        "store": dict(source.provenance),
        "labels": {
            "file": labels.path.name,
            "sha256": labels.sha256,
            "used": len(labels.frame),
            "without_clip": len(labels.warnings),
        },
        "versions": versions(),
        **({"layers": layers} if layers else {}),
    }


def provenance_of_frames(source: FeatureStore, stream: Stream) -> dict[str, object]:
    """Return what provenance.json holds of a fit to frames, by which `score` makes features."""
    layers = layers_of(source, stream)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "store": dict(source.provenance),
        "versions": versions(),
        **({"layers": layers} if layers else {}),
    }


def versions() -> dict[str, str]:
    """Versions of what a result hangs on, and the number of torch threads."""
    return {
        "facepipe": facepipe_version(),
        "python": platform.python_version(),
        "torch_threads": str(torch.get_num_threads()),
        **{name: version(name) for name in VERSIONED},
    }


def facepipe_version() -> str:
    """Version of this package, or "unknown"."""
    try:
        return version("facepipe")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
