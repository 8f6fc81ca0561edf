"""Pictures of student and teacher while the student is trained, which leave no trace in the training.

Knows modules' modes and shares. Does not know prompts, pictures or files: whoever draws does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from ssd1b.distill.step import Objective


class Previews(Protocol):
    """Someone who draws what student and teacher make of the same prompts."""

    def draw(self, student: nn.Module, objective: Objective, total: int) -> None:
        """Draw after `total` steps of the run.

        All processes come here at the same step, in evaluation mode and under the stage's precision. A
        student in shares wants every process to call it equally often.
        """
        ...


@contextmanager
def at_rest(*unets: nn.Module) -> Iterator[None]:
    """Inside the `with`, no gradients and evaluation mode; then every module is in its own mode again.

    What a student in shares gathered to be called is let go at the end.
    """
    modes = [(module, module.training) for unet in unets for module in unet.modules()]
    try:
        with torch.no_grad():
            for unet in unets:
                unet.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module, _ in modes:
            if isinstance(module, FSDPModule):
                module.reshard()
