"""Files of tensors in the safetensors format: written range by range, read memory-mapped.

A file is the length of its header (8 bytes, little-endian), the header (JSON with the dtype, shape and place of each
tensor, and texts under ``__metadata__``), and the tensors end to end. It is written here, not with
`safetensors.torch.save_file`, which holds a copy of all tensors.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rec_models.errors import CheckpointError
from rec_models.training.devices import usable_device
from rec_models.training.memory import is_out_of_memory

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNMENT = 64  # bytes; the first tensor of a mapped file then begins where one in memory would
_BLOCK = 1 << 24  # values that are copied from a GPU at a time


def write(
    file: BinaryIO,
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    parts: Callable[[str], Iterable[Tensor]] | None = None,
) -> None:
    """Write the header, then the tensors.

    Args:
        file: open for writing, at its beginning.
        metadata: texts by name.
        tensors: by name, of any shape and on any device. With `parts` only shapes and dtypes are read, so they may be
            on the device ``meta``.
        parts: the values of a tensor, given its name: its rows from first to last, in one or more ranges.

    Raises:
        ValueError: the parts of a tensor are not as many bytes as the tensor.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, tensor in tensors.items():
        written = 0
        for part in [tensor] if parts is None else parts(name):
            for block in torch.split(part.detach().flatten(), _BLOCK):
                written += file.write(block.cpu().view(torch.uint8).numpy().data)
        if written != tensor.nbytes:
            raise ValueError(f"parts: found {written} bytes for {name}, allowed: {tensor.nbytes}")


def read(path: Path, device: str | torch.device = "cpu") -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the texts and the tensors of a file, in the order in which they were written.

    On a CPU the tensors are views of the mapped file: they take memory when they are first used, and processes that
    read the same file share it. What is written into them does not change the file.

    Raises:
        CheckpointError: the file is damaged or has another format.
        ValueError: there is no such device.
    """
    target = usable_device(device)
    try:
        with safe_open(path, framework="pt", device=str(target)) as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.offset_keys()}
    except Exception as error:
        if not isinstance(error, SafetensorError) and is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: damaged, or no model: {reason}") from error
