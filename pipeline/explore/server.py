"""Bokeh's server for the page, and two addresses beside it; it listens on this machine alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.server.server import Server
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler

from pipeline.explore.content import Content
from pipeline.explore.frames import FrameError, Frames, NotWantedError
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


class FrameHandler(_Local):
    """``?clip=ID&frame=I``: one frame of a clip of the store as JPEG, or why there is none."""

    def initialize(
        self, content: Content, frames: Frames, worker: Executor, stopping: Event
    ) -> None:
        """Take what is shown, the thread that decodes, and what ends it."""
        self.content, self.frames, self.worker = content, frames, worker
        self._stopping, self._left = stopping, Event()

    async def get(self) -> None:
        """Answer; who asks may leave before, and then no more is decoded."""
        try:
            record = self.content.store.record(self.get_query_argument("clip"))
            index = int(self.get_query_argument("frame"))
        except (ClipNotFoundError, ValueError):
            raise HTTPError(404) from None
        if not record.status.has_rows or not 0 <= index < record.frames:
            raise HTTPError(404)
        decode = partial(self.frames.jpeg, record, index, self._wanted)
        # A face is kept by no browser, and read by no other page.
        self.set_header("Cache-Control", "no-store")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        try:
            picture = await IOLoop.current().run_in_executor(self.worker, decode)
        except NotWantedError:
            return
        except FrameError as error:
            self.set_status(404)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(str(error))
            return
        if self._wanted():
            self.set_header("Content-Type", "image/jpeg")
            self.finish(picture)

    def _wanted(self) -> bool:
        return not (self._left.is_set() or self._stopping.is_set())

    def on_connection_close(self) -> None:
        """Note that nobody waits for the answer."""
        self._left.set()


@contextmanager
def serving(content: Content, videos: Path | None, port: int) -> Iterator[Server]:
    """Listen; within, the caller runs ``io_loop.start()``.

    Parameters
    ----------
    content : Content
    videos : Path, optional
        The folder that was extracted; without it faces are drawn on an empty ground.
    port : int
        0: any that is free.

    Raises
    ------
    ExploreError
        The port is taken. InputError: the folder holds no videos.
    """
    patterns: list[Any] = [(r"/clips.json", ClipsHandler, {"content": content})]
    with ExitStack() as after:
        if videos is not None:
            frames = after.enter_context(closing(Frames(videos)))
            # One thread, so that one clip after the other is decoded, beside the server's own.
            worker = ThreadPoolExecutor(1)
            after.callback(worker.shutdown, cancel_futures=True)
            stopping = Event()
            after.callback(stopping.set)
            given = {
                "content": content,
                "frames": frames,
                "worker": worker,
                "stopping": stopping,
            }
            patterns.append((r"/frame", FrameHandler, given))
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
                f"port {port} cannot be listened on ({error.strerror})",
                "choose another with --port",
            ) from None
        # The address of the machine itself is as good as its name, which alone is Bokeh's default.
        server._tornado.websocket_origins.add(f"{ADDRESS}:{server.port}")
        after.callback(server.stop)
        server.start()
        yield server
