"""Whether a checkpoint's arrays can be read at all, asked before Orbax is: of a damaged file its
threads print tracebacks of their own, also after the error that is caught.
"""

import pathlib

import tensorstore

from confp_jax.texts import parse_json

_KINDS = {"/zarr.json": "zarr3", "/.zarray": "zarr"}


def check_readable(folder: pathlib.Path) -> None:
    """Reads all arrays of a checkpoint on this machine, and what is said of them.

    Raises:
      ValueError: something cannot be read.
      OSError: a file of it cannot be opened.
    """
    for about in (*folder.glob("*/_METADATA"), *folder.glob("*/array_metadatas/*")):
        if not isinstance(parse_json(about.read_text()), dict):
            raise ValueError(f"{about.name} holds no JSON object")
    for manifest in sorted(folder.glob("*/manifest.ocdbt")):
        base = {"driver": "file", "path": f"{manifest.parent}/"}
        store = {"driver": "ocdbt", "base": base}
        keys = tensorstore.KvStore.open(store).result().list().result()
        if not keys:
            raise ValueError(f"{manifest.name} names no arrays")
        for key in sorted(key.decode() for key in keys):
            for suffix, driver in _KINDS.items():
                if key.endswith(suffix):
                    place = {"kvstore": store | {"path": key.removesuffix(suffix) + "/"}}
                    array = tensorstore.open({"driver": driver} | place, open=True, read=True)
                    array.result().read().result()
