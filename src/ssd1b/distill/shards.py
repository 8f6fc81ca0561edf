"""A student laid in shares over several processes: weights, gradients, AdamW's states.

FSDP2 (arXiv:2304.11277). Knows torch's `fully_shard` and which of diffusers' modules are worth a group of
their own. Does not know losses, recipes or files.

Groups are chosen so that sharding changes no gradient by a bit: a module is wrapped only where it alone reads
its input. Wrapping whole residual blocks or sites would sum the gradients of a feature that is also tapped,
or kept for a skip connection, in another order, which rounds differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ssd1b.distill.ranks import Ranks


def shard(student: nn.Module, ranks: Ranks, device: torch.device) -> bool:
    """Lay the student's parameters over all processes, in place; False if there is only one process.

    Transformer blocks and the convolutions of residual blocks are gathered one by one as they are needed;
    what is left is gathered together.
    """
    if ranks.world == 1:
        return False
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    mesh = init_device_mesh(device.type, (ranks.world,))
    for module in list(student.modules()):
        if isinstance(module, BasicTransformerBlock):
            fully_shard(module, mesh=mesh)
        elif isinstance(module, ResnetBlock2D):
            fully_shard(module.conv1, mesh=mesh)
            fully_shard(module.conv2, mesh=mesh)
    fully_shard(student, mesh=mesh)
    return True


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that lies in shares; every process has to ask for it."""
    gathered: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered


def put(target: Tensor, content: Tensor) -> None:
    """Copy a whole tensor, the same on every process, into one that may lie in shares."""
    if isinstance(target, DTensor):
        content = distribute_tensor(content.to(target.device), target.device_mesh, target.placements)
    target.copy_(content)


class ShardedGradients:
    """The gradients of a sharded student, the same verbs as `optim.FlatGradients`.

    Each process holds its share, averaged over processes by every backward pass: with accumulation that is
    more traffic than one exchange at the end, and no whole gradient in memory.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        """Nothing is laid out: the backward pass makes the shares."""
        self.parameters, self.ranks = list(parameters), ranks

    def zero(self) -> None:
        """Forget the last step's gradients."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    def norm(self) -> Tensor:
        """Euclidean norm over all gradients of all processes."""
        norms = [torch.linalg.vector_norm(share, dtype=torch.float64) for share in self._shares()]
        total = torch.stack(norms).square().sum()
        self.ranks.add_(total)
        return total.sqrt().float()

    def clip(self, norm: float, limit: float) -> None:
        """Scale the gradients down to `limit` if their `norm` is larger; a limit of 0 does nothing."""
        if 0.0 < limit < norm:
            torch._foreach_mul_(self._shares(), limit / norm)

    def _shares(self) -> list[Tensor]:
        gradients = [parameter.grad for parameter in self.parameters]
        return [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
