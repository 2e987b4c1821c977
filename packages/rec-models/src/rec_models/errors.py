"""What stops a training run."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the text is one line that says why and what to do."""
