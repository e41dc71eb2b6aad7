"""Broken clips, always the same for a seed; as a program: what ClipReader makes of each.

``python -m tests.extract.fuzz_clips FOLDER`` prints a JSON line for every file below a folder. It
runs in a process of its own, since a decoder may take its process down.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from stages.extract.video import ClipReader, UnreadableClipError
from tests.testing.av_clips import AV1, write_av
from tests.testing.clips import picture

SIZE, FRAMES = (64, 48), 8
REAL = Path(__file__).parents[3] / "shared/data/clips"  # beside the repository, on some machines
REAL_CLIPS = ("EDTalk__expression_source.mp4", "Moore-AnimateAnyone__talkinghead_videos_2.mp4")
REAL_SECONDS = 0.7
_EXTREMES = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0"]


def originals(folder: Path) -> list[Path]:
    """Write one tiny clip for each of several containers and codecs."""
    folder.mkdir()
    images = [picture([(20 + 3 * i, 24, 22)], SIZE) for i in range(FRAMES)]
    pal = Fraction(1, 25)
    front = {"movflags": "faststart"}
    return [
        write_av(folder / "part2.mp4", images),
        write_av(folder / "h264.mp4", images, codec="libx264", container=front),
        write_av(folder / "vp9.webm", images, codec="libvpx-vp9", options={"deadline": "realtime"}),
        write_av(folder / "av1.mp4", images, codec=AV1),
        write_av(folder / "mjpeg.avi", images, codec="mjpeg", pix_fmt="yuvj420p", base=pal),
        write_av(folder / "h264.mkv", images, codec="libx264"),
        write_av(folder / "h264.ts", images, codec="libx264"),
        write_av(folder / "palette.gif", images, codec="gif", pix_fmt="rgb8"),
    ]


def real_ones(folder: Path) -> list[Path]:
    """Cut the first seconds out of two clips from cameras, sound and all, where they are there."""
    folder.mkdir()
    return [_beginning(folder / name, REAL / name) for name in REAL_CLIPS if REAL.is_dir()]


def _beginning(path: Path, whole: Path) -> Path:
    """Copy packets, so that the bytes of the pictures stay those of the camera's encoder."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            begun = packet.stream.start_time or 0
            if packet.dts is not None and (packet.dts - begun) * packet.time_base < REAL_SECONDS:
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return path


def broken(folder: Path, sources: list[Path], count: int, seed: int) -> list[Path]:
    """Write ``count`` files, each one of the sources with a few faults."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    made = []
    for i in range(count):
        source = sources[i % len(sources)]
        data = bytearray(source.read_bytes())
        names = []
        for _ in range(rng.integers(1, 4)):
            fault = _FAULTS[rng.integers(len(_FAULTS))]
            fault(data, rng)
            names.append(fault.__name__.strip("_"))
        path = folder / f"{i:04d}_{'_'.join(names)}_{source.name}"
        path.write_bytes(data)
        made.append(path)
    return made


def _bytes_anywhere(data: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(0, max(1, len(data)), rng.integers(1, 30)):
        data[at : at + 1] = bytes([rng.integers(256)])


def _bits_in_header(data: bytearray, rng: np.random.Generator) -> None:
    for at in _header(data, rng, int(rng.integers(1, 12))):
        data[at] ^= 1 << int(rng.integers(8))


def _extreme_number(data: bytearray, rng: np.random.Generator) -> None:
    for at in _header(data, rng, int(rng.integers(1, 5))):
        data[at : at + 4] = _EXTREMES[rng.integers(len(_EXTREMES))]


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(1, max(2, len(data)))) :]


def _hole(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data) + 1))
    del data[at : at + int(rng.integers(1, 200))]


def _twice(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data) + 1))
    data[at:at] = data[at : at + int(rng.integers(1, 400))]


def _noise(data: bytearray, rng: np.random.Generator) -> None:
    at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 200))
    data[at : at + length] = rng.bytes(length)


_FAULTS: list[Callable[[bytearray, np.random.Generator], None]] = [
    _bytes_anywhere, _bits_in_header, _extreme_number, _cut, _hole, _twice, _noise,
]  # fmt: skip


def _header(data: bytearray, rng: np.random.Generator, count: int) -> list[int]:
    """Pick places in the part that describes the stream: an MP4's moov, else the beginning."""
    start = max(0, data.find(b"moov") - 4)
    stop = min(len(data), start + 900)
    return [int(at) for at in rng.integers(start, max(start + 1, stop), count) if at < len(data)]


def examine(path: Path) -> dict[str, object]:
    """Read one clip to its end and return what became of it."""
    began = time.monotonic()
    times, sizes = [], set()
    try:
        with ClipReader(path) as reader:
            for frame in reader:
                times.append(frame.timestamp)
                sizes.add((*frame.image.shape, frame.image.dtype.name))
    except Exception as error:  # only the one may come out: the test shows what did
        expected = isinstance(error, UnreadableClipError)
        return {
            "status": "unreadable" if expected else "raised",
            "message": str(error) if expected else repr(error),
            "frames": len(times),
            "seconds": time.monotonic() - began,
        }
    info = reader.info
    numbers = [*times, info.duration_s, info.fps or 0.0]
    return {
        "status": str(info.status),
        "message": info.message,
        "decoder": info.decoder,
        "frames": info.frames,
        "yielded": len(times),
        "sizes": sorted(sizes),
        "expected_size": (info.height, info.width, 3, "uint8"),
        "finite": all(math.isfinite(number) for number in numbers),
        "increasing": all(a < b for a, b in zip(times, times[1:], strict=False)),
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    """Examine every file below the folder that is given."""
    for path in sorted(Path(sys.argv[1]).iterdir()):
        print(json.dumps({"file": path.name}), flush=True)  # names the culprit of a crash
        print(json.dumps(examine(path)), flush=True)
    print(json.dumps({"peak_kib": _peak_kib()}))


def _peak_kib() -> int:
    """Return the most memory that this program held, in KiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss: it begins with what the process held that started this one.
    return next(int(x.split()[1]) for x in status.read_text().splitlines() if x[:5] == "VmHWM")


if __name__ == "__main__":
    main()
