"""Parquet: one file, a row a frame, arrays as lists of fixed length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from store.arrays import AnyArray
from store.exchange import Header, missing_package
from store.mismatch import to_json
from store.schema import ClipRecord, array_specs

GROUP_ROWS = 8_192


class ParquetSink:
    """Writes one Parquet file: clip, track, frame (from 0), and a column an array."""

    def __init__(self, path: Path, header: Header) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise missing_package("pyarrow", "parquet", "Parquet") from error
        self._pa = pa
        self._specs = array_specs(header.feature_dtype)
        kinds = {"bool": pa.bool_()} | {
            f"float{bits}": getattr(pa, f"float{bits}")() for bits in (16, 32, 64)
        }
        columns = [
            pa.field(s.name, pa.list_(kinds[s.dtype], s.tail[0]) if s.tail else kinds[s.dtype])
            for s in self._specs
        ]
        self._schema = pa.schema(
            [("clip", pa.string()), ("track", pa.int32()), ("frame", pa.int32()), *columns],
            {"facepipe_provenance": to_json(header.provenance)},
        )
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="zstd", use_dictionary=["clip"]
        )
        self._held: list[Any] = []
        self._rows = 0

    def put(self, clip: str, tracks: list[tuple[ClipRecord, dict[str, AnyArray]]]) -> None:
        """Write one clip."""
        pa = self._pa
        for record, arrays in tracks:
            n = record.frames
            columns = [
                pa.array([clip] * n, pa.string()),
                pa.array(np.full(n, record.track, np.int32)),
                pa.array(np.arange(n, dtype=np.int32)),
            ]
            for spec in self._specs:
                flat = pa.array(np.ascontiguousarray(arrays[spec.name]).reshape(-1))
                columns.append(
                    pa.FixedSizeListArray.from_arrays(flat, spec.tail[0]) if spec.tail else flat
                )
            self._held.append(pa.Table.from_arrays(columns, schema=self._schema))
            self._rows += n
            if self._rows >= GROUP_ROWS:
                self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(self._pa.concat_tables(self._held), GROUP_ROWS)
        self._held, self._rows = [], 0

    def close(self) -> None:
        """Complete the file."""
        self._flush()
        self._writer.close()
