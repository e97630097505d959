"""Files as Hugging Face's `datasets` writes them: the same schema, with what it notes of the columns."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

IMAGE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def png(picture: Image.Image) -> dict[str, Any]:
    """An image in a column of type Image."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def table(
    images: Sequence[Any], labels: Sequence[Any], names: Sequence[str] = (), label: str = "label"
) -> pyarrow.Table:
    """Columns `img` and `label`, a ClassLabel if it has names."""
    own = {"_type": "ClassLabel", "names": list(names)} if names else {"_type": "Value"}
    noted = {"info": {"features": {"img": {"_type": "Image"}, label: own}}}
    columns = {"img": pyarrow.array(images, IMAGE), label: pyarrow.array(labels)}
    return pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps(noted)})


def save(path: Path, rows: pyarrow.Table) -> Path:
    """Writes an Arrow stream or a Parquet file, by the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(rows, path)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, rows.schema) as stream:
            stream.write_table(rows, max_chunksize=4)
    return path
