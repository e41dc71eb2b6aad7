"""Crops of a store's clips as batches of pictures, read in blocks ahead of the model."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from stages.fit.batches import Batch, ClipData, collate
from stages.fit.loader import Budget, ClipLoader, Rows
from stages.fit.models import StreamStatistics
from stages.fit.models.frames import PICTURE_MEAN, PICTURE_SD
from stages.fit.pictures import Image, Pictures
from stages.fit.spans import ClipSpan, FeatureStore, MissingFeaturesError
from stages.fit.tasks import Attributes
from store.schema import LANDMARK_DIM

BLOCK_CROPS = 128


class CropLoader(ClipLoader):
    """Batches of the aligned crops that `extract --crops K` keeps of each clip.

    Blocks, memory, order and reading ahead are ClipLoader's; what stands in a batch for the frames
    of a clip are its crops, scaled to what the model reads. Where the batches are shuffled, which
    is training, each clip gives one crop a time, drawn by chance and varied (see Pictures), the
    same for the same seed and epoch; otherwise all K of them, whole.

    Parameters
    ----------
    source : FeatureStore
    clips : sequence of ClipSpan
    pictures : Pictures
    scores : mapping of clip id to float, optional
    budget : Budget, optional
        Of the bytes of scaled crops that may stay in memory.
    attributes : Attributes, optional

    Raises
    ------
    MissingFeaturesError
        The store holds no crops, or none of some clip.
    """

    def __init__(
        self,
        source: FeatureStore,
        clips: Sequence[ClipSpan],
        pictures: Pictures,
        scores: Mapping[str, float] | None = None,
        budget: Budget | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        spans = crop_spans(source, clips)
        super().__init__(
            source,
            spans,
            scores,
            budget=budget,
            block_rows=BLOCK_CROPS,
            attributes=attributes,
        )
        self._crops = source.dask("crop")
        self._pictures = pictures

    def _rows(self, spans: Sequence[ClipSpan]) -> Rows:
        low, high = spans[0].start, max(s.start + s.frames for s in spans)
        return Rows(low, (self._crops[low:high].compute(scheduler="synchronous"),))

    def _prepared(self, spans: Sequence[ClipSpan], read: Rows) -> list[ClipData]:
        (images,) = read.arrays
        return [
            pictured(s.clip, self._pictures.scaled(images[s.start - read.low :][: s.frames]))
            for s in spans
        ]

    def _collate(self, clips: list[ClipData], training: tuple[int, int] | None) -> Batch:
        if training is not None:
            clips = [self._drawn(clip, training) for clip in clips]
        return collate(clips, self.scores, self.attributes)

    def _drawn(self, clip: ClipData, training: tuple[int, int]) -> ClipData:
        """One of a clip's crops, varied; by the clip's name, so that no order can matter."""
        rng = np.random.default_rng((*training, zlib.crc32(clip.clip.encode())))
        image = clip.appearance[rng.integers(len(clip))].astype(np.uint8, copy=False)
        return pictured(clip.clip, self._pictures.varied(image, rng)[None])

    def statistics(self) -> StreamStatistics:
        """Mean and deviation of ImageNet's channels, RGB; nothing is read for it."""
        mean, sd = torch.tensor(PICTURE_MEAN), torch.tensor(PICTURE_SD)
        none, one = torch.zeros(LANDMARK_DIM), torch.ones(LANDMARK_DIM)
        return StreamStatistics(mean, sd, sd, none, one, one)


def pictured(clip: str, images: Image) -> ClipData:
    """Crops (k, S, S, 3) uint8 as a clip of k frames that hold nothing else."""
    k = len(images)
    nothing = np.zeros((k, LANDMARK_DIM), np.float32)
    return ClipData(clip, images, nothing, np.ones(k, np.bool_), np.zeros(k))


def crop_spans(source: FeatureStore, clips: Sequence[ClipSpan]) -> list[ClipSpan]:
    """Where the crops of clips lie in the array of crops.

    Raises
    ------
    MissingFeaturesError
        The store holds no crops, or none of some clip.
    """
    hint = "Extract the clips with --crops K into a new store."
    if source.crop_size is None:
        raise MissingFeaturesError(
            "the store holds no crops, which this model reads in place of features", hint
        )
    wanted = {span.clip for span in clips}
    found = [
        ClipSpan(record.clip, record.start, len(record.frames), len(record.frames))
        for record in source.crop_records()
        if record.track == 0 and record.clip in wanted
    ]
    lacking = sorted(wanted - {span.clip for span in found})
    if lacking:
        raise MissingFeaturesError(
            f"{len(lacking)} of {len(wanted)} clips have no crops, for example {lacking[0]!r}", hint
        )
    return found
