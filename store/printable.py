"""Text of unknown origin, made safe to show: names of files, channels and people."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    r"""Return text with every character that does not print as ``%XX`` of its UTF-8 bytes.

    Those are control characters (escape sequences of terminals among them), marks that turn the
    direction of writing, and bytes of a file's name that are no text (``os.fsdecode`` makes lone
    surrogates of them). What prints stays as it is, ``%`` too: this is to be read, not undone.

    Parameters
    ----------
    text : str
    keep : str
        Characters to leave alone all the same, such as ``"\n"``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    try:
        data = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, as "\ud800" in JSON
        data = character.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)
