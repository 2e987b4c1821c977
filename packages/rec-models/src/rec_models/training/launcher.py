"""How Lightning starts the processes of a run; in a file of its own, because Lightning takes seconds to import."""

from __future__ import annotations

from lightning.fabric.strategies.ddp import DDPStrategy
from torch import nn


class Processes(DDPStrategy):
    """Launches a process per device; modules stay as they are: `rec_models.training.ranks.Ranks` adds up gradients."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """The module itself."""
        return module
