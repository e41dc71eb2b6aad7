"""The models of stage two, by name. Importing this package registers them all."""

from stages.fit.models import cam_tcn as _cam_tcn  # noqa: F401 - registers itself, as the others
from stages.fit.models import gcn as _gcn  # noqa: F401
from stages.fit.models import gdlt as _gdlt  # noqa: F401
from stages.fit.models import gru as _gru  # noqa: F401
from stages.fit.models import hmtnet as _hmtnet  # noqa: F401
from stages.fit.models import one_stream_tcn as _one_stream_tcn  # noqa: F401
from stages.fit.models import siamese as _siamese  # noqa: F401
from stages.fit.models import static as _static  # noqa: F401
from stages.fit.models import transformer as _transformer  # noqa: F401
from stages.fit.models import two_stream_tcn as _two_stream_tcn  # noqa: F401
from stages.fit.models import two_stream_tcn_plus as _two_stream_tcn_plus  # noqa: F401
from stages.fit.models.base import (
    Description,
    ModelError,
    Prediction,
    StreamStatistics,
    TemporalModel,
    check_options,
    check_third_stream,
    complete,
    create,
    describe,
    get,
    has_tasks,
    names,
    options,
    pictures,
    register,
    unknown,
)

__all__ = [
    "Description",
    "ModelError",
    "Prediction",
    "StreamStatistics",
    "TemporalModel",
    "check_options",
    "check_third_stream",
    "complete",
    "create",
    "describe",
    "get",
    "has_tasks",
    "names",
    "options",
    "pictures",
    "register",
    "unknown",
]
