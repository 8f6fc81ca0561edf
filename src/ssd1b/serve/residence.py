"""The models a server offers by name, of which one is in memory at a time.

What a model is best at is read from its configs when the server starts, so that a wish can be completed and
refused without loading anything. Does not know jobs or HTTP.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from ssd1b.base.errors import RequestError, did_you_mean
from ssd1b.base.files import MANIFEST
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.generate.load import find, load, public_name
from ssd1b.generate.model import Defaults, defaults_of
from ssd1b.plan.shape import UNetShape, shape_of

if TYPE_CHECKING:
    from ssd1b.generate.load import EngineWish
    from ssd1b.generate.model import Model


@dataclass(frozen=True, slots=True)
class Known:
    """A model that is not loaded: what is needed to complete a wish for it."""

    name: str
    folder: Path
    shape: UNetShape
    defaults: Defaults
    decoder: str = ""
    adapters: tuple[()] = ()


def known(name: str) -> Known:
    """Read a model's configs; weights that are on the hub are fetched now.

    Raises:
        UserError: as `generate.load.find`.
    """
    folder = find(name, None)
    config = read_json(folder / "unet" / "config.json")
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    shape = shape_of(config)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    takes_guidance = config.get("time_cond_proj_dim") is not None
    defaults = defaults_of(shape, scheduler, takes_guidance=takes_guidance, manifest=manifest)
    return Known(public_name(name), folder, shape, defaults)


@dataclass(slots=True)
class Residence:
    """Names, and the one model that is loaded.

    Attributes:
        names: what each public name is called by `generate.load`, in the order they are offered.
        wish: which engine is to run them.
        load_one: loads a model; a seam for tests.
    """

    names: Mapping[str, str]
    wish: EngineWish
    load_one: Callable[[str, EngineWish], Model] = field(default=lambda name, wish: load(name, wish=wish))
    _known: dict[str, Known] = field(default_factory=dict)
    _loaded: Model | None = None
    _lock: Lock = field(default_factory=Lock)
    load_seconds: float = 0.0

    @property
    def default(self) -> str:
        """The model that is taken when none is named."""
        return next(iter(self.names))

    @property
    def resident(self) -> str:
        """The public name of the model in memory, or ""."""
        loaded = self._loaded
        return loaded.name if loaded is not None else ""

    def about(self, name: str) -> Known:
        """A model by its public name; "" is the default.

        Raises:
            RequestError: this server does not offer it.
        """
        name = name or self.default
        if name not in self.names:
            offered = ", ".join(self.names)
            raise RequestError(
                f"This server has no model '{name}'.{did_you_mean(name, self.names)} It offers: {offered}."
            )
        if name not in self._known:
            self._known[name] = known(self.names[name])
        return self._known[name]

    def model(self, name: str) -> Model:
        """The model, loaded; the one that was loaded before goes first, so two never meet in memory.

        Only the worker calls this.

        Raises:
            UserError: it cannot be loaded.
        """
        with self._lock:
            if self._loaded is not None and self._loaded.name == name:
                return self._loaded
            self._loaded = None
            gc.collect()
            start = time.monotonic()
            self._loaded = self.load_one(self.names[self.about(name).name], self.wish)
            self.load_seconds = time.monotonic() - start
            return self._loaded

    def leave(self) -> None:
        """Let go of the model in memory."""
        with self._lock:
            self._loaded = None
            gc.collect()


def names_of(models: Sequence[str]) -> dict[str, str]:
    """Public names of models as a person gave them; paths are not shown to clients.

    Raises:
        RequestError: two would have the same public name.
    """
    found: dict[str, str] = {}
    for model in models:
        public = public_name(model)
        if public in found and found[public] != model:
            raise RequestError(f"'{found[public]}' and '{model}' are both called '{public}'. Rename one.")
        found[public] = model
    return found
