"""Find samples of the data set and answers in the production log by id, start of an id, key or path."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from monitoring.log.production_log import Log, open_log
from tasks.common.params import load_params
from tasks.dataset.shards import live_shards, read_columns, read_image_paths
from tasks.labels.names import Named, candidates, name_images

COLUMNS = pa.schema([("id", pa.string()), ("key", pa.string()), ("path", pa.string())])


def resolve(root: Path, texts: Iterable[str], *, log: Log | None = None, data: bool = True) -> Named:
    """The images that `texts` name in the data set and in the log. A text that names none comes with the reason.

    log: the production log, if it is open already. data: False looks into the log only.
    """
    wanted = list(dict.fromkeys(texts))
    tables = [_in_log(log or open_log(root, load_params(root / "params.yaml")), wanted)]
    if data and (root / "data" / "dataset.json").is_file():
        tables.append(_in_data(root, wanted))
    return name_images(pa.concat_tables(tables), wanted)


def _in_log(log: Log, texts: list[str]) -> pa.Table:
    return log.named(texts).select(COLUMNS.names)


def _in_data(root: Path, texts: list[str]) -> pa.Table:
    tables = [COLUMNS.empty_table()]
    for shard in live_shards(root / "data"):
        rows = read_columns(shard.path, ["id", "key"])
        places = pa.table({"shard": [shard.name] * len(rows), "row": range(len(rows))})
        paths = pa.array(read_image_paths(root, places), pa.string())
        rows = rows.append_column("path", paths).cast(COLUMNS)
        tables.append(rows.filter(pa.array(candidates(rows, texts))))
    return pa.concat_tables(tables)
