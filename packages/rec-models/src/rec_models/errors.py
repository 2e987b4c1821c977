"""What stops a training run."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the text is one line that says why and what to do.

    `on_every_rank`: each process of the run raises the same, so it is enough that the first one tells it.
    """

    def __init__(self, text: str, *, on_every_rank: bool = False) -> None:
        super().__init__(text)
        self.on_every_rank = on_every_rank
