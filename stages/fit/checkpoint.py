"""Checkpoints of a training: one safetensors file, written whole or not at all, never a pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from store.durable import write_file
from store.errors import FacepipeError

FACTS = "facts"


class CheckpointError(FacepipeError, ValueError):
    """A checkpoint that is damaged, or of a training on other data."""


@dataclass(frozen=True)
class Snapshot:
    """Where a training stands after an epoch: tensors by name, and the rest as JSON types."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors ``name.*`` without that prefix."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def named(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return them as ``name.*``, to be told from others in one Snapshot."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


class Checkpoint:
    """The file that a training saves itself to after every epoch.

    Facts travel in the file's own JSON header, so that tensors and facts are always of one epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, snapshot: Snapshot) -> None:
        """Replace what was saved before; a kill at any moment leaves the one or the other."""
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in snapshot.tensors.items()}
        facts = {FACTS: json.dumps(snapshot.facts)}
        write_file(self.path, safetensors.torch.save(tensors, facts))

    def load(self) -> Snapshot | None:
        """Return what was saved last; None if nothing was.

        Raises
        ------
        CheckpointError
            The file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                # Copies: a view of the file would not be aligned as torch's own memory is.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
                facts = json.loads((file.metadata() or {})[FACTS])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{self.path}: the checkpoint is damaged ({reason})",
                "remove this file to train from the beginning",
            ) from None
        return Snapshot(tensors, facts)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether both hold the same tensors under the same names, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
