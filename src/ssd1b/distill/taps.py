"""Reading features out of a UNet while it runs, and leaving no trace.

Knows forward hooks and site names ("down_blocks.1.attentions.0"). Does not know which sites matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor, nn

from ssd1b.base.errors import PlanError

Output: TypeAlias = Tensor | tuple[Tensor, ...]


@contextmanager
def tapped(model: nn.Module, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside the `with`, each forward fills the yielded mapping: site -> that module's output.

    Hooks are gone when the block ends, also after an error. Open it around the forward only: with
    gradient checkpointing the backward runs layers again, and by then nobody listens.

    Raises:
        PlanError: the model has no module of that name.
    """
    features: dict[str, Tensor] = {}
    handles = []
    try:
        for site in sites:
            handles.append(_module(model, site).register_forward_hook(_keep(features, site)))
        yield features
    finally:
        for handle in handles:
            handle.remove()


def _module(model: nn.Module, site: str) -> nn.Module:
    try:
        return model.get_submodule(site)
    except AttributeError:
        raise PlanError(
            f"The model has no layer '{site}' to read features from; is it of the layout its plan says?"
        ) from None


def _keep(features: dict[str, Tensor], site: str) -> Callable[[nn.Module, object, Output], None]:
    def hook(_module: nn.Module, _inputs: object, output: Output) -> None:
        features[site] = output[0] if isinstance(output, tuple) else output

    return hook
