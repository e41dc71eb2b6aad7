"""What a person touches: the command line, messages, the demo."""

__version__: str


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # slow, and seldom asked for

    try:
        return version("facepipe")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
