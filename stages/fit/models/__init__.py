"""The models of stage two, by name. Importing this package registers them all."""

from stages.fit.models import two_stream_tcn as _two_stream_tcn  # noqa: F401 - registers itself
from stages.fit.models.base import (
    ModelError,
    Prediction,
    StreamStatistics,
    TemporalModel,
    check_options,
    create,
    get,
    names,
    options,
    register,
)

__all__ = [
    "ModelError",
    "Prediction",
    "StreamStatistics",
    "TemporalModel",
    "check_options",
    "create",
    "get",
    "names",
    "options",
    "register",
]
