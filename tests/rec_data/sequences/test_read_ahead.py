import mmap
from pathlib import Path

import numpy as np
import pytest

from rec_data.sequences.examples import last_windows
from rec_data.sequences.read_ahead import ReadAhead
from rec_data.sequences.store import SequenceStore, write_store


def test_the_pages_of_the_next_batches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[bytes] = []

    class Recorded(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int | None = None) -> None:
            super().madvise(option, start, *([] if length is None else [length]))  # refuses what is no page
            if option == mmap.MADV_WILLNEED:
                asked.append(self[start : start + length])

    rng, stores = np.random.default_rng(0), []
    monkeypatch.setattr(mmap, "mmap", Recorded)
    for path in (tmp_path / "1.arrow", tmp_path / "2.arrow"):
        lengths = rng.integers(2, 5000, 40)
        items = rng.integers(0, 1 << 30, lengths.sum(), dtype=np.int32)
        users, offsets = np.arange(40, dtype=np.int32), np.concatenate(([0], np.cumsum(lengths)))
        write_store(path, items=items, offsets=offsets, user_ids=users)
        stores.append(SequenceStore.open(path))
    flat = np.concatenate([store.items.numpy() for store in stores])
    offsets = np.concatenate([stores[0].offsets.numpy(), len(stores[0].items) + stores[1].offsets.numpy()[1:]])
    examples = last_windows(offsets, span=2000)
    batches = np.split(rng.permutation(80), 8)
    for done, rows in enumerate(ReadAhead(stores).of(batches, examples)):
        assert np.array_equal(rows, batches[done])
        coming = np.concatenate(batches[: done + 3])
        assert len(asked) == len(coming)
        for row, read in zip(coming, asked, strict=True):
            first, length = examples.starts[row], examples.lengths[row]
            assert read.endswith(flat[first : first + length].tobytes())
            assert len(read) < 4 * length + mmap.PAGESIZE
