"""Facts about the device that tile sizes, limits and products depend on."""

from functools import lru_cache

import torch

MAX_TRITON_DIM = 512  # columns of the widest vectors that any kernel takes


@lru_cache
def device_properties(index: int) -> tuple[int, int]:
    """Compute capability (major * 10 + minor) and number of multiprocessors of a CUDA device."""
    properties = torch.cuda.get_device_properties(index)
    return properties.major * 10 + properties.minor, properties.multi_processor_count


def is_ampere_or_newer(device: torch.device) -> bool:
    """Whether it is a GPU of compute capability 8.0 or above.

    Older ones have no bf16 and no flash attention, and Triton multiplies matrices there without tensor cores.
    """
    # Not `device_properties`: torch.compile takes this call for a constant, and warns of a cached function.
    return device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 8


def is_interpreted(device: torch.device) -> bool:
    """Whether kernels run in Triton's interpreter there: everywhere but on CUDA."""
    return device.type != "cuda"
