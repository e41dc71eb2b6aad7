"""An ONNX Runtime session whose inputs keep their places on the device.

`InferenceSession.run` allocates device memory for each call's input. Here each input shape has one
buffer there, filled by a copy and bound once. The host side is ordinary memory: onnxruntime's
Python interface gives no pinned buffers without a further plug-in package.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[np.generic]

SHAPES_KEPT = 8


class BoundSession:
    """The used part of a session's interface, through IOBinding.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    place : str
        Where its buffers lie: ``cuda``; ``cpu`` does the same on the host.
    """

    def __init__(self, session: Any, place: str) -> None:
        self._session = session
        self._place = place
        self._outputs = [output.name for output in session.get_outputs()]
        self._bound: OrderedDict[Any, tuple[Any, dict[str, Any]]] = OrderedDict()

    def get_inputs(self) -> Any:
        """Return the net's inputs."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """Return the net's outputs in the model's order."""
        return self._session.get_outputs()

    def get_providers(self) -> Any:
        """Return what runs it, first choice first."""
        return self._session.get_providers()

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """Run the net; return the outputs asked for, all for None, as arrays of their own."""
        blobs = {name: np.ascontiguousarray(blob) for name, blob in feed.items()}
        binding, buffers = self._binding(blobs)
        for name, blob in blobs.items():
            buffers[name].update_inplace(blob)
        # Again for each run: results of the last one would be taken for buffers to write into.
        binding.clear_binding_outputs()
        wanted = self._outputs if names is None else names
        for name in wanted:
            binding.bind_output(name, self._place)
        self._session.run_with_iobinding(binding)
        return [np.array(output) for output in binding.copy_outputs_to_cpu()]

    def _binding(self, blobs: dict[str, Array]) -> tuple[Any, dict[str, Any]]:
        key = tuple(sorted((name, blob.shape, blob.dtype.str) for name, blob in blobs.items()))
        if key in self._bound:
            self._bound.move_to_end(key)
            return self._bound[key]
        if len(self._bound) >= SHAPES_KEPT:
            self._bound.popitem(last=False)
        binding = self._session.io_binding()
        buffers = {}
        for name, blob in blobs.items():
            buffers[name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                blob.shape, blob.dtype.type, self._place
            )
            binding.bind_ortvalue_input(name, buffers[name])
        self._bound[key] = binding, buffers
        return self._bound[key]
