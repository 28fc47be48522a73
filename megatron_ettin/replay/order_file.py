"""What was learned between two checkpoints, as a parquet file: the published data-order columns, and where from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.errors import DataError
from megatron_ettin.progress import Progress
from megatron_ettin.publish import publish_file
from megatron_ettin.replay.replay import original_ids, seen_rows
from megatron_ettin.rows.run_data import RunData

ROWS_A_GROUP = 4096
ZSTD_LEVEL = 10


def write_order_file(data: RunData, first: int, last: int, path: Path, refused: Collection[int] = ()) -> int:
    """Write every row of the steps ``first + 1`` to ``last`` in order; returns the number of rows.

    Columns ``input_ids`` (before masking, the whole row) and ``step`` as in the published data-order files, then
    ``source``, ``row`` (of the pool), ``pass``, for the pieces of the row ``documents``, ``starts``, ``lengths``,
    ``updated``: false in the steps ``refused``, which changed no weight, and ``objective``, of the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not 0 <= first < last:
        raise DataError(f"--between {first} {last}: the second step must come after the first, and none is below 0")
    ids = pa.uint16() if data.vocabulary.size <= 2**16 else pa.int32()
    fields = [
        ("input_ids", pa.list_(ids)), ("step", pa.uint64()), ("source", pa.string()), ("row", pa.int64()),
        ("pass", pa.uint32()), ("documents", pa.list_(pa.int64())), ("starts", pa.list_(pa.int32())),
        ("lengths", pa.list_(pa.int32())), ("updated", pa.bool_()), ("objective", pa.string()),
    ]  # fmt: skip
    schema = pa.schema(fields, metadata={"sequence_length": str(data.config.data.row_length)})
    begin, end = data.batch_schedule.rows_at(first)[0], sum(data.batch_schedule.rows_at(last - 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"compression": "zstd", "compression_level": ZSTD_LEVEL, "write_statistics": False}
    with (
        publish_file(path) as staging,
        pq.ParquetWriter(staging, schema, **options) as out,
        Progress("order", end - begin, " rows") as progress,
    ):
        for row in range(begin, end, ROWS_A_GROUP):
            count = min(ROWS_A_GROUP, end - row)
            out.write_table(_table(data, row, count, refused, schema, pa), row_group_size=ROWS_A_GROUP)
            progress.update(row + count - begin)
    return end - begin


def _table(data: RunData, first: int, count: int, refused: Collection[int], schema: Any, pa: Any) -> Any:  # noqa: ANN401
    numbers = data.order.at(first, count)
    objective = OBJECTIVES[data.config.objective]
    ids = original_ids(data.batch(numbers, objective.name), objective.label_offset)
    rows = seen_rows(data, numbers)
    bounds = np.arange(count + 1, dtype=np.int32) * ids.shape[1]
    flat = pa.array(ids.reshape(-1).astype(schema.field("input_ids").type.value_type.to_pandas_dtype()))
    steps = [data.batch_schedule.step_of_row(first + i) + 1 for i in range(count)]
    columns = [
        pa.ListArray.from_arrays(pa.array(bounds), flat),
        pa.array(steps, pa.uint64()),
        pa.array([row.source for row in rows]),
        pa.array(numbers),
        pa.array([row.pass_number for row in rows], pa.uint32()),
        *(
            pa.array([[piece[part] for piece in row.pieces] for row in rows], schema.field(name).type)
            for part, name in enumerate(("documents", "starts", "lengths"))
        ),
        pa.array([step not in refused for step in steps]),
        pa.array([row.objective for row in rows]),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
