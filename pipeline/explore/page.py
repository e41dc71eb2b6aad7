"""The page: a table and a map of the clips, the chosen one's video, and curves that go with it."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.events import Tap
from bokeh.layouts import column, row
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
    TableColumn,
    TextInput,
)
from bokeh.plotting import figure

from pipeline.explore.content import Content, methods

WIDTHS = {"clip": 260, "message": 160}  # of columns, in pixels
CURVES = (
    ("valid", "face found"),
    ("yaw", "yaw, degrees"),
    ("mouth", "mouth opening, distances between the eyes"),
    ("box", "side of the box, pixels"),
)

# The player is plain HTML of the template, so that these can find it. A clip's name reaches it as a
# property or an encoded part of an address, never as markup.
CHOOSE = """
const player = document.getElementById("player"), told = document.getElementById("told");
const chosen = source.selected.indices;
if (chosen.length) {
  const clip = source.data.clip[chosen[0]];
  told.textContent = clip + (player.dataset.videos ? "" : " (no --videos given)");
  if (player.dataset.videos) {
    player.onerror = () => { told.textContent = clip + ": not there, or not to be played here"; };
    player.ontimeupdate = () => { cursors.forEach(c => { c.location = player.currentTime; }); };
    player.src = "video/" + clip.split("/").map(encodeURIComponent).join("/");
  }
}
"""
SEEK = 'document.getElementById("player").currentTime = cb_obj.x;'


def build(document: Document, content: Content, videos: bool) -> None:
    """Put the page of one visitor into a document; ``videos`` says whether clips can be played."""
    source = ColumnDataSource({**content.clips, **_places(content, methods()[0])})
    names = ("time", *(key for key, _ in CURVES))
    curves = ColumnDataSource({name: [] for name in names}, name="curves-data")
    shown = BooleanFilter([True] * len(content.clips["clip"]))
    view = CDSView(filter=shown)
    name = TextInput(title="Name contains")
    statuses = sorted(set(content.clips["status"]))
    status = MultiChoice(title="Status", options=statuses)
    method = Select(title="Projection", options=methods(), value=methods()[0])
    table = DataTable(
        source=source,
        view=view,
        columns=[TableColumn(field=k, title=k, width=WIDTHS.get(k, 70)) for k in content.clips],
        width=760,
        height=330,
        index_position=None,
    )
    places = figure(
        width=460,
        height=400,
        title="Clips by their mean embedding",
        tools="pan,wheel_zoom,box_zoom,tap,reset",
    )
    places.scatter("x", "y", source=source, view=view, size=8, alpha=0.7)
    places.add_tools(HoverTool(tooltips=[("clip", "@clip"), ("status", "@status")]))
    cursors = [Span(location=0, dimension="height", line_width=2) for _ in CURVES]
    figures = [_curve(curves, key, title, cursors[k]) for k, (key, title) in enumerate(CURVES)]
    for other in figures[1:]:
        other.x_range = figures[0].x_range

    def choose(attribute: str, old: list[int], new: list[int]) -> None:
        if new:
            told = content.curves(content.clips["clip"][new[0]])
            curves.data = {key: _floats(values) for key, values in told.items()}

    def sift(attribute: str, old: Any, new: Any) -> None:
        part, wanted = name.value_input.casefold(), set(status.value or statuses)
        shown.booleans = [
            part in clip.casefold() and s in wanted
            for clip, s in zip(content.clips["clip"], content.clips["status"], strict=True)
        ]

    source.selected.on_change("indices", choose)
    source.selected.js_on_change(
        "indices", CustomJS(args={"source": source, "cursors": cursors}, code=CHOOSE)
    )
    name.on_change("value_input", sift)
    status.on_change("value", sift)
    method.on_change("value", lambda attribute, old, new: source.data.update(_places(content, new)))
    document.title = "facepipe explore"
    document.template = (resources.files("pipeline.explore") / "page.html").read_text("utf-8")
    document.template_variables["videos"] = "yes" if videos else ""
    document.add_root(column(row(name, status, method), row(table, places), name="clips"))
    document.add_root(column(*figures, name="curves"))


def _curve(source: ColumnDataSource, key: str, title: str, cursor: Span) -> Any:
    drawn = figure(width=760, height=130, title=title, tools="xpan,xwheel_zoom,reset")
    drawn.line("time", key, source=source)
    drawn.add_layout(cursor)
    drawn.js_on_event(Tap, CustomJS(code=SEEK))
    return drawn


def _places(content: Content, method: str) -> dict[str, Any]:
    x, y = content.project(method).T
    return {"x": x, "y": y}


def _floats(values: list[float | None]) -> Any:
    return np.array(values, np.float64)
