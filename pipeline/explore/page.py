"""The page: a table and a map of the clips, the chosen one's video, and curves that go with it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from bokeh.document import Document
from bokeh.events import Tap
from bokeh.layouts import column
from bokeh.models import (
    BooleanFilter,
    CDSView,
    ColumnDataSource,
    CustomJS,
    DataTable,
    HoverTool,
    MultiChoice,
    Select,
    Span,
    StringFormatter,
    TableColumn,
    TextInput,
)
from bokeh.plotting import figure

from pipeline.explore.content import Content, methods
from stages.extract.overlay import CLOSED, LINES

WIDTHS = {"clip": 260, "valid": 100, "message": 420}  # of columns, in pixels
TITLES = {"valid": "share with face"}
CURVES = (
    ("valid", "face found"),
    ("yaw", "yaw, degrees"),
    ("mouth", "mouth opening, distances between the eyes"),
    ("box", "side of the box, pixels"),
)

# The player is plain HTML of the template and player.js. A clip's name reaches it as a property or
# an encoded part of an address, never as markup.
LOAD = "explorer.load(track, cursors);"
SEEK = "explorer.seek(cb_obj.x);"


def build(document: Document, content: Content, videos: bool) -> None:
    """Put the page of one visitor into a document; ``videos``: whether frames can be had."""
    source = ColumnDataSource({**content.clips, **_places(content, methods()[0])})
    # Of the clip in its tags: id, width, height.
    track = ColumnDataSource({"time": [], **{key: [] for key, _ in CURVES}}, name="track")
    shown = BooleanFilter([True] * len(content.clips["clip"]))
    view = CDSView(filter=shown)
    name = TextInput(title="Name contains", name="name")
    statuses = sorted(set(content.clips["status"]))
    status = MultiChoice(title="Status", options=statuses, name="status")
    method = Select(title="Projection", options=methods(), value=methods()[0], name="method")
    table = DataTable(
        source=source,
        view=view,
        columns=[
            TableColumn(
                field=k,
                title=TITLES.get(k, k),
                width=WIDTHS.get(k, 70),
                formatter=StringFormatter(null_format=""),
            )
            for k in content.clips
        ],
        height=400,
        sizing_mode="stretch_width",
        index_position=None,
        reorderable=False,
        autosize_mode="none",  # names that can be read on a narrow screen, where the table scrolls
        name="table",
    )
    places = figure(
        height=400,
        sizing_mode="stretch_width",
        name="places",
        title="Clips by their mean embedding",
        tools="pan,wheel_zoom,box_zoom,tap,reset",
    )
    places.scatter("x", "y", source=source, view=view, size=8, alpha=0.7, nonselection_alpha=0.3)
    places.add_tools(HoverTool(tooltips=[("clip", "@clip"), ("status", "@status")]))
    cursors = [
        Span(location=0, dimension="height", line_width=2, name=f"cursor-{key}")
        for key, _ in CURVES
    ]
    figures = [_curve(track, key, title, cursors[k]) for k, (key, title) in enumerate(CURVES)]
    for other in figures[1:]:
        other.x_range = figures[0].x_range

    def choose(attribute: str, old: list[int], new: list[int]) -> None:
        if new:
            clip = content.clips["clip"][new[0]]
            track.tags = [clip, *content.size(clip)]
            track.data = content.track(clip)

    def sift(attribute: str, old: Any, new: Any) -> None:
        part, wanted = name.value_input.casefold(), set(status.value or statuses)
        shown.booleans = [
            part in clip.casefold() and s in wanted
            for clip, s in zip(content.clips["clip"], content.clips["status"], strict=True)
        ]

    source.selected.on_change("indices", choose)
    track.js_on_change("data", CustomJS(args={"track": track, "cursors": cursors}, code=LOAD))
    name.on_change("value_input", sift)
    status.on_change("value", sift)
    method.on_change("value", lambda attribute, old, new: source.data.update(_places(content, new)))
    document.title = "facepipe explore"
    here = resources.files("pipeline.explore")
    document.template = (here / "page.html").read_text("utf-8")
    document.template_variables.update(
        player=(here / "player.js").read_text("utf-8"),
        lines=json.dumps([[start, end, start in CLOSED] for start, end in LINES]),
        frames="frame" if videos else "",
    )
    for root in (name, status, method, table, places):
        document.add_root(root)
    document.add_root(column(*figures, sizing_mode="stretch_width", name="curves"))


def _curve(source: ColumnDataSource, key: str, title: str, cursor: Span) -> Any:
    drawn = figure(
        height=130, sizing_mode="stretch_width", title=title, tools="xpan,xwheel_zoom,reset"
    )
    drawn.line("time", key, source=source)
    drawn.add_layout(cursor)
    drawn.js_on_event(Tap, CustomJS(code=SEEK))
    return drawn


def _places(content: Content, method: str) -> dict[str, Any]:
    x, y = content.project(method).T
    return {"x": x, "y": y}
