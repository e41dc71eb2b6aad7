"""What a person touches: the command line, messages, the demo."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("facepipe")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"
