"""`pipeline features`: any layer of the recognition net, for the frames that a store holds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from pipeline.options import DeviceOption, Json, Workers
from stages.extract.device import Device


class Pool(StrEnum):
    """How a map becomes a vector."""

    MEAN = "mean"
    MEANSD = "meansd"
    PYRAMID = "pyramid"
    FLATTEN = "flatten"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(features)


def features(
    videos: Annotated[
        list[Path] | None, typer.Argument(help="Where the store's clips lie. [default: none]")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="A tensor of the recognition net.")] = None,
    store: Annotated[Path, typer.Option(help="The feature store.")] = Path("features.store"),
    list_: Annotated[bool, typer.Option("--list", help="List the tensors, do nothing.")] = False,
    pool: Annotated[
        Pool,
        typer.Option(
            help="Of a map: its mean; mean and deviation; means of the whole and of its quarters; "
            "every value."
        ),
    ] = Pool.MEAN,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mean over the face and its mirror image.")
    ] = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="From the store's crops, without the videos.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Of the array. [default: from layer and pooling]")
    ] = None,
    pack: Annotated[
        str | None, typer.Option(help="Where the store's pack is. [default: found by its name]")
    ] = None,
    device: DeviceOption = Device.AUTO,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew.")] = False,
    json: Json = False,
) -> None:
    """Add any layer of the recognition net to a store, as an array that models read by its name.

    Interrupted, the same command goes on. Example: pipeline features videos/ --layer 507
    """
    import store as stores
    from stages.extract import layer_run
    from stages.extract.layers import LayerOptions, tensors
    from stages.extract.layers import Pool as Pooling
    from stages.extract.run import open_pack
    from store.errors import FacepipeError

    if list_:
        # Of the pack that is named, else of the store's.
        chosen = (
            open_pack(pack, console.note)
            if pack
            else layer_run.pack_of(stores.open(store).provenance["pack"], None, console.note)
        )
        found = tensors(chosen)
        if json:
            console.emit({"tensors": [vars(tensor) for tensor in found]})
            return
        rows: list[list[object]] = [
            [tensor.name, tensor.kind, "x".join(map(str, tensor.shape))] for tensor in found
        ]
        console.table("", ["layer", "made by", "shape"], rows)
        return
    if layer is None:
        raise FacepipeError("no layer was named", "give --layer NAME; --list lists them")
    options = LayerOptions(layer, Pooling(pool.value), flip, crops)
    if not crops and not videos:
        raise FacepipeError(
            "no videos were given", "give the folder that was extracted, or --crops"
        )
    with console.fold_progress() as bar:
        made = layer_run.add_layer(
            store,
            videos or [],
            options,
            name=name,
            pack=pack,
            device=device,
            workers=workers,
            overwrite=overwrite,
            echo=console.note,
            progress=lambda done, total: bar("rows", done, total),
        )
    if json:
        console.emit({"store": str(store), **vars(made)})
    else:
        console.result(
            f"{made.name}: {made.rows} rows of {made.width}, {made.new} of them new; "
            f"models read it with --set stream=appearance+{made.name}"
        )
