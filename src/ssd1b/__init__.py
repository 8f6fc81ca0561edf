"""ssd1b: carve, distil, run and compare smaller Stable Diffusion XL models.

    import ssd1b
    pipe = ssd1b.load("segmind/SSD-1B")
    pipe("a lighthouse at dusk", seed=1).images[0]

What this package hands out is imported on first use, so that `import ssd1b` loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssd1b.base.errors import UserError
    from ssd1b.generate.api import Pipeline, Result, load, wrap
    from ssd1b.generate.pipeline import Cancelled, Step
    from ssd1b.generate.request import Request

__version__ = "0.1.0"
__all__ = ["Cancelled", "Pipeline", "Request", "Result", "Step", "UserError", "__version__", "load", "wrap"]

_HOME = {
    "Cancelled": "ssd1b.generate.pipeline",
    "Pipeline": "ssd1b.generate.api",
    "Request": "ssd1b.generate.request",
    "Result": "ssd1b.generate.api",
    "Step": "ssd1b.generate.pipeline",
    "UserError": "ssd1b.base.errors",
    "load": "ssd1b.generate.api",
    "wrap": "ssd1b.generate.api",
}


def __getattr__(name: str) -> object:
    """Import a name from the room where it lives, the first time somebody asks for it."""
    if name not in _HOME:
        raise AttributeError(f"module 'ssd1b' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
