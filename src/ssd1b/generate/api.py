"""The front door for programs: load a model, call it, get pictures; `import ssd1b` opens it on first use.

The same pictures, to the bit, as the command line makes. Knows neither options nor the screen, and does
nothing by itself that `asked`, `pipeline`, `load` and `stock` do not do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ssd1b.base.errors import RequestError
from ssd1b.formats.hub import Listener
from ssd1b.generate import asked as wishes
from ssd1b.generate import load as loading
from ssd1b.generate import stock as stock_pipelines
from ssd1b.generate.keywords import Said, call_of
from ssd1b.generate.picture import SUFFIXES
from ssd1b.generate.pipeline import batches, sample
from ssd1b.generate.places import Places

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image

    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request

log = logging.getLogger("ssd1b.generate")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one call.

    Attributes:
        images: RGB pictures of Pillow, prompt by prompt, of each prompt seed by seed.
        requests: what each of them was asked to be, complete.
        seconds: how long they took, without loading.
        engine: what made them.
    """

    images: list[Image]
    requests: list[Request]
    seconds: float
    engine: str = "torch"

    def save(self, path: str | Path = "out", suffix: str = ".png") -> list[Path]:
        """Write the pictures with their requests inside, as `ssd1b generate --out` does; return the files.

        Args:
            path: a folder, or a .png, .jpg or .webp file; of several pictures each then gets its seed added.
                A file that holds something else is never written over: a number is added.
            suffix: of the files in a folder.

        Raises:
            RequestError: no such kind of file, or one that cannot hold so long a request (JPEG).
        """
        if suffix.lower() not in SUFFIXES:
            raise RequestError(f"Pictures are not written as '{suffix}'. There are: {', '.join(SUFFIXES)}.")
        places = Places(
            Path(path), self.requests[0], len(self.requests) == 1, suffix=suffix, engine=self.engine
        )
        places.refuse_what_no_file_holds(self.requests)
        return [places.save(*pair) for pair in zip(self.images, self.requests, strict=True)]


@dataclass(frozen=True, slots=True, repr=False)
class Pipeline:
    """A loaded model that makes pictures when it is called. Not for two threads at the same time."""

    model: Model

    def __call__(self, prompt: str | Sequence[str], **said: Unpack[Said]) -> Result:
        """Make pictures of one prompt or of several.

        Args:
            prompt: what is to be seen; weights, BREAK and gaps are read as in `ssd1b generate`.
            **said: whatever else is wished for, see `Said`; the rest is the model's own choice.

        Raises:
            UserError: it cannot be done as asked; the message says what to do.
            Cancelled: raised by `on_step`, it passes through.
        """
        call = call_of(prompt, said)
        requests = [
            request for each in call.asked for request in wishes.completed(each, self.model, call.count)
        ]
        canvas = call.asked[0].canvas
        canvases = {} if canvas is None else canvas.by_digest()
        start = time.monotonic()
        images: list[Image] = []
        for part in batches(requests, call.batch, self.model):
            images += sample(self.model, part, said.get("on_step"), canvases)
        return Result(images, requests, time.monotonic() - start, self.model.engine)

    def to_diffusers(self) -> StableDiffusionXLPipeline:
        """A stock diffusers pipeline around the very same modules: no copy is made.

        Called with the same values and `generator=torch.Generator("cpu").manual_seed(seed)` it makes the same
        pictures. What is done to its modules is done to this pipeline's.

        Raises:
            RequestError: another engine than torch runs the model.
        """
        return stock_pipelines.to_stock(self.model)

    def __repr__(self) -> str:
        return f"<ssd1b pipeline: {self.model.name} on {self.model.placement.reason}>"


def load(
    name: str | Path = loading.DEFAULT,
    *,
    device: str | None = None,
    dtype: str | None = None,
    engine: str = "auto",
    precision: str | None = None,
    tiny_decoder: str | Path | None = None,
) -> Pipeline:
    """Load a model by any of its names, fetching it from the hub if need be (remarks go to the log).

    Args:
        name: an embedded model ("mini-ssd"), a diffusers folder, a .safetensors file, or a hub id such as
            "segmind/SSD-1B" or "segmind/SSD-1B@<commit>".
        device: "cpu", "cuda", "cuda:1" or "mps"; None: chosen, as dtype.
        dtype: "float32", "float16" or "bfloat16".
        engine: "torch", "openvino", or "auto": the fastest that is there.
        precision: of OpenVINO's networks, "fp16" or "int8".
        tiny_decoder: folder of an `AutoencoderTiny` to decode with; "mini-tiny": the miniatures'.

    Raises:
        UserError: there is no such model, device, dtype or engine, or the model cannot be fetched or read.
    """
    decoder = None if tiny_decoder is None else Path(tiny_decoder)
    wish = loading.wish_of(engine, precision, decoder=decoder)
    listener = Listener(note=log.info)
    return Pipeline(loading.load(str(name), device=device, dtype=dtype, wish=wish, listener=listener))


def wrap(stock: StableDiffusionXLPipeline) -> Pipeline:
    """Make pictures with the modules of a stock diffusers pipeline of the SDXL family; no copy is made.

    It stays on its device and in its numbers. Wrap it after LoRAs and schedulers have been chosen: texts that
    were encoded are remembered, and the scheduler that is there now becomes the default.

    Raises:
        UserError: a part is missing, is not SDXL's, or is moved between devices while it runs.
    """
    return Pipeline(stock_pipelines.from_stock(stock))
