"""Bokeh's server for the page, and two addresses beside it; it listens on this machine alone."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.server.server import Server
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from pipeline.explore.content import Content
from pipeline.explore.page import build
from store.errors import ClipNotFoundError, FacepipeError

ADDRESS = "127.0.0.1"


class ExploreError(FacepipeError, OSError):
    """The page cannot be served."""

    __str__ = Exception.__str__  # OSError's own __str__ would need (errno, text) arguments


class _Local(RequestHandler):
    """Refuses what was addressed to another name: by a web page that points its own name here."""

    def prepare(self) -> None:
        """Look at the name."""
        if self.request.host_name not in ("localhost", ADDRESS):
            raise HTTPError(403)


class ClipsHandler(_Local):
    """The clips, or with ``?clip=ID`` the curves of one, as JSON."""

    def initialize(self, content: Content) -> None:
        """Take what is shown."""
        self.content = content

    def get(self) -> None:
        """Answer."""
        clip = self.get_query_argument("clip", None)
        if clip is None:
            self.write(self.content.clips)
            return
        try:
            self.write(self.content.curves(clip))
        except ClipNotFoundError:
            raise HTTPError(404) from None


class VideoHandler(_Local, StaticFileHandler):
    """The files of the store's clips, in parts as a player asks for them, and no other file."""

    def initialize(self, path: str, clips: Collection[str]) -> None:
        """Take the folder and the ids of the clips below it that may be seen."""
        super().initialize(path)
        self.clips = clips

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Let a clip of the store through that lies in the folder."""
        found = super().validate_absolute_path(root, absolute_path)
        if found is None:
            return None
        inside = Path(found).resolve().is_relative_to(Path(root).resolve())  # past any link
        if not inside or Path(found).relative_to(root).as_posix() not in self.clips:
            raise HTTPError(403)
        return found


def serve(content: Content, videos: Path | None, port: int) -> Server:
    """Start listening; the caller runs ``io_loop.start()``.

    Parameters
    ----------
    content : Content
    videos : Path, optional
        The folder that was extracted; without it no clip is played.
    port : int
        0: any that is free.

    Raises
    ------
    ExploreError
        The port is taken.
    """
    patterns: list[Any] = [(r"/clips.json", ClipsHandler, {"content": content})]
    if videos is not None:
        given = {"path": str(videos.resolve()), "clips": frozenset(content.clips["clip"])}
        patterns.append((r"/video/(.*)", VideoHandler, given))
    page = partial(build, content=content, videos=videos is not None)
    try:
        server = Server(
            {"/": Application(FunctionHandler(page))},
            address=ADDRESS,
            port=port,
            extra_patterns=patterns,
        )
    except OSError as error:
        raise ExploreError(
            f"port {port} cannot be listened on ({error.strerror})", "choose another with --port"
        ) from None
    server.start()
    return server
