"""What every folder of a fit knows of the store that it was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.fit.spans import FeatureStore
from store.errors import StoreMismatchError


class OfStore:
    """A fitted model that reads the features of another store.

    ``folder``: where it lies; ``provenance``: its provenance.json.
    """

    folder: Path
    provenance: dict[str, Any]

    def check_store(self, provenance: Mapping[str, Any]) -> None:
        """Raise StoreMismatchError unless features came from the pack that this run learnt from.

        Features of two packs have the same shape and nothing else in common: a score from another
        pack's features would look like one and mean nothing.
        """
        mine, theirs = _pack(self.provenance.get("store", {})), _pack(provenance)
        if mine[1] != theirs[1]:
            raise StoreMismatchError(
                f"the run {self.folder} was fitted on features of pack '{mine[0]}' "
                f"({mine[1][:12]}), this store holds features of pack '{theirs[0]}' "
                f"({theirs[1][:12]})",
                f"extract the clips again with --pack {mine[0]}, or fit a run on this store",
            )

    def check_layers(self, source: FeatureStore) -> None:
        """Raise StoreMismatchError unless a store has the layers that are read, made alike."""
        for name, told in self.provenance.get("layers", {}).items():
            layer = source.layers.get(name)
            if layer is None or layer.provenance != told:
                raise StoreMismatchError(
                    f"the run {self.folder} reads the layer {name!r} (tensor {told['layer']}, "
                    f"{told['pool']}), which this store lacks or has made otherwise",
                    f"pipeline features VIDEOS --layer {told['layer']} --name {name}, as for the "
                    "store that it was fitted on",
                )


def _pack(provenance: Mapping[str, Any]) -> tuple[str, str]:
    pack = provenance.get("pack", {})
    return str(pack.get("name", "unknown")), str(pack.get("fingerprint", "unknown"))
