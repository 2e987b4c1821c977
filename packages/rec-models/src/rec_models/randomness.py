"""Seeds as functions of counters: what a step draws depends only on its place in the run."""

from __future__ import annotations

import hashlib


def mix_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on all parts; the same in every process and Python version."""
    key = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
