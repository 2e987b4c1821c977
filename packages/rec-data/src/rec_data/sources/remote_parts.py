"""The parts of a subset in object storage: each is copied to the folder of downloads when it is opened first."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pyarrow import fs

from rec_data.errors import DataError
from rec_data.locks import locked
from rec_data.sequences.store import SequenceStore
from rec_data.sequences.subsets import StoreParts, check_heads, check_names, read_head
from rec_data.sources import remote
from rec_data.sources.cache import cache_folder


def remote_parts(
    folder: str, name: str, *, hashes: Mapping[str, str] | None = None, cache: Path | None = None
) -> StoreParts:
    """Find the parts of a subset by the address of the folder ``sequences`` of a split.

    Only the ends of the files are read, for their metadata. A part that is opened is copied, compared with its checksum
    and kept under a name that its metadata decide, checksum included; no other part is copied.

    Args:
        folder: An address such as ``s3://bucket/split/sequences``.
        name: The subset, such as ``train``.
        hashes: See `SequenceStore.open`.
        cache: Where copies are kept; None: the folder of downloads.

    Raises:
        DataError: There is no such folder or nothing in it, it cannot be read, or what
            `rec_data.sequences.subsets.store_files` raises. Opening a part: as `SequenceStore.open`, the object is
            missing, its transfer ended early, or the disk is full.
    """
    local = folder.removeprefix("file:///")
    address = remote.parse(folder) if local == folder else remote.Address("file", "", local, "")
    if address is None:
        raise DataError(f"found {folder!r}, allowed: an address, as s3://bucket/split/sequences")
    with remote.reading(address):
        system, base = remote.open_system(address)
        place = "/".join([base.rstrip("/"), address.path.strip("/"), name])
        found = system.get_file_info(fs.FileSelector(place, allow_not_found=True))
    objects = sorted((info for info in found if info.base_name.endswith(".arrow")), key=lambda info: info.base_name)
    if not objects:
        raise DataError(f"{address}/{name}: found no part, allowed: part-00001-of-00008.arrow and so on")
    check_names(f"{address}/{name}", [info.base_name for info in objects])
    heads = []
    for info in objects:
        with remote.reading(address), system.open_input_file(info.path) as file:
            heads.append(read_head(file, f"{address}/{name}/{info.base_name}"))
    check_heads([f"{address}/{name}/{info.base_name}" for info in objects], heads)
    kept = (cache_folder() if cache is None else cache) / "sequences"

    def file_of(number: int) -> Path:
        info, head = objects[number - 1], heads[number - 1]
        key = hashlib.sha256(repr(sorted(head.items())).encode()).hexdigest()[:16]
        target = kept / key / str(info.base_name)
        with locked(target):
            if not target.is_file():
                _copy(system, info, target.with_suffix(".part"), address._replace(path=info.path.lstrip("/")))
                target.with_suffix(".part").replace(target)
        return target

    return StoreParts(heads, file_of, hashes)


def _copy(system: fs.FileSystem, info: fs.FileInfo, target: Path, address: remote.Address) -> None:
    """Copy an object and compare the copy with its checksum; a copy that failed is removed."""
    try:
        remote.copy_object(system, info, target, address)
        SequenceStore.open(target)
    except DataError as error:
        target.unlink(missing_ok=True)
        raise DataError(str(error).replace(str(target), str(address))) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
