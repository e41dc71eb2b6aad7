"""Any tensor of a pack's recognition net as features of an aligned face."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from stages.extract import graphs, packs
from stages.extract.batches import BATCHES, F32
from stages.extract.device import Device
from stages.extract.errors import PackError
from stages.extract.nets import prepared
from stages.extract.sessions import open_session
from stages.extract.video import Image


class Pool(StrEnum):
    """How a map (C, H, W) becomes a vector; a tensor without places is taken as it is.

    ``mean`` (C,), ``meansd``: mean and standard deviation (2 C,), ``pyramid``: the means of the
    whole and of its four quarters (5 C,), ``flatten``: every value (C H W,).
    """

    MEAN = "mean"
    MEANSD = "meansd"
    PYRAMID = "pyramid"
    FLATTEN = "flatten"


@dataclass(frozen=True)
class LayerOptions:
    """What a layer's values depend on, beside the pack.

    Attributes
    ----------
    layer : str
        Name of a tensor in the recognition net's ONNX graph; see ``tensors``.
    pool : Pool
    flip : bool
        Mean over the face and its mirror image; the map of the latter is mirrored back.
    crops : bool
        From the store's crops, scaled to the net's input; frames without a crop are NaN.
    """

    layer: str
    pool: Pool = Pool.MEAN
    flip: bool = False
    crops: bool = False

    @property
    def name(self) -> str:
        """What the array is called unless the user says."""
        parts = [self.layer, str(self.pool), *(["flip"] if self.flip else [])]
        text = ".".join([*parts, *(["crops"] if self.crops else [])])
        return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")

    def provenance(self, pack: packs.Pack) -> dict[str, Any]:
        """Return it as a store keeps it."""
        return {**asdict(self), "pool": str(self.pool), "pack": pack.fingerprint}

    @classmethod
    def of(cls, provenance: dict[str, Any]) -> LayerOptions:
        """Read what ``provenance`` wrote."""
        return cls(
            str(provenance["layer"]),
            Pool(provenance["pool"]),
            bool(provenance["flip"]),
            bool(provenance["crops"]),
        )


@dataclass(frozen=True)
class Tensor:
    """A tensor that can be a layer: its name, what computes it, and its shape without the batch."""

    name: str
    kind: str
    shape: tuple[int, ...]


def tensors(pack: packs.Pack) -> list[Tensor]:
    """List the tensors of a pack's recognition net, in the order in which it computes them."""
    model = graphs.load(pack.recognition)
    shape = graphs.shapes(model)
    found = []
    for node in model.graph.node:
        for name in node.output:
            dims = shape(name)
            if len(dims) in (2, 4) and None not in dims[1:]:
                found.append(Tensor(name, node.op_type, tuple(d or 0 for d in dims[1:])))
    return found


class LayerNet:
    """Embedding and one layer's pooled features of aligned faces.

    Parameters
    ----------
    pack : Pack
    options : LayerOptions
    device : Device
        Resolved.
    threads : int

    Attributes
    ----------
    width : int
        Of the features.

    Raises
    ------
    PackError
        The net has no such tensor; names the nearest.
    DeviceError
    """

    def __init__(
        self, pack: packs.Pack, options: LayerOptions, device: Device, threads: int = 1
    ) -> None:
        known = {tensor.name: tensor for tensor in tensors(pack)}
        if options.layer not in known:
            raise PackError(
                f"the recognition net of pack {pack.name!r} has no tensor {options.layer!r}",
                "`pipeline features --list` lists its tensors",
            )
        model = graphs.with_output(graphs.load(pack.recognition), options.layer)
        model_bytes, self._feed = prepared(model, 127.5, device)
        self._session = open_session(model_bytes, device, threads)
        self._input = self._session.get_inputs()[0].name
        self._options = options
        empty = np.zeros((1, *known[options.layer].shape), np.float32)
        self.width = pooled(empty, options.pool).shape[1]

    def __call__(self, faces: Sequence[Image]) -> tuple[F32, F32]:
        """Return embeddings (n, 512) and features (n, width) of faces (112, 112, 3) BGR, n >= 1."""
        embeddings, features = [], []
        for begin in range(0, len(faces), BATCHES[0]):
            part = faces[begin : begin + BATCHES[0]]
            embedding, values = self._run(part)
            if self._options.flip:
                _, other = self._run([np.ascontiguousarray(face[:, ::-1]) for face in part])
                if other.ndim == 4:
                    other = other[..., ::-1]
                values = np.asarray((values + other) / 2, np.float32)
            embeddings.append(embedding)
            features.append(pooled(values, self._options.pool))
        return np.concatenate(embeddings), np.concatenate(features)

    def _run(self, faces: Sequence[Image]) -> tuple[F32, F32]:
        outputs = self._session.run(None, {self._input: self._feed.blob(faces)})
        return outputs[0], outputs[-1]


def pooled(values: F32, pool: Pool) -> F32:
    """Pool maps (n, C, H, W) to vectors, see Pool; (n, D) is returned as it is."""
    if values.ndim == 2:
        return values
    flat = values.reshape(len(values), -1)
    if pool is Pool.FLATTEN:
        return flat
    mean: F32 = np.asarray(values.mean(axis=(2, 3)), np.float32)
    if pool is Pool.MEAN:
        return mean
    if pool is Pool.MEANSD:
        return np.concatenate([mean, values.std(axis=(2, 3))], axis=1)
    cells = [cell.mean(axis=(2, 3)) for band in _halves(values, 2) for cell in _halves(band, 3)]
    return np.concatenate([mean, *cells], axis=1)


def _halves(values: F32, axis: int) -> list[F32]:
    """Cut an axis in two; the halves share the middle line of an odd number."""
    n = values.shape[axis]
    size = -(-n // 2)
    lines = (range(size), range(n - size, n))
    return [np.asarray(values.take(part, axis), np.float32) for part in lines]
