"""`ssd1b generate`: pictures from a sentence.

Wires wish, model and files together and says what happens; how a picture is made is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.units import human_seconds
from ssd1b.cli import show

if TYPE_CHECKING:
    from PIL.Image import Image

    from ssd1b.formats.hub import Listener
    from ssd1b.generate.asked import Asked
    from ssd1b.generate.load import EngineWish
    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request

_MINIATURE = (
    "Drawing with the embedded miniature '{}': small scenes of a few things, not photographs."
    " For photographs: --model segmind/SSD-1B (4.5 GB, fetched once)."
)


def command(
    prompt: Annotated[str, typer.Argument(help="What is to be seen.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="An embedded model, a diffusers folder, a .safetensors file, or a hub id[@revision].",
        ),
    ] = "mini-ssd",
    negative: Annotated[str | None, typer.Option(help="What is not to be seen.")] = None,
    size: Annotated[str, typer.Option(help="Width x height in pixels, multiples of 8.")] = "",
    aspect: Annotated[
        str,
        typer.Option(help="1:1, 9:7, 7:9, 19:13, 13:19, 7:4, 4:7, 12:5 or 5:12, at the model's own size."),
    ] = "",
    steps: Annotated[int | None, typer.Option(help="UNet calls: more is finer and slower.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly to follow the prompt; 1 is off, and twice as fast.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="euler, euler-a, dpm++-2m, dpm++-2m-karras, ddim, unipc or lcm.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture; left out: a new one.")] = None,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many, with seeds counting up.")] = 1,
    batch: Annotated[
        int,
        typer.Option(
            "--batch", min=1, max=256, help="How many at once; above 1 the last bit of rounding may differ."
        ),
    ] = 1,
    out: Annotated[Path, typer.Option(help="A folder, or a .png file.")] = Path("out"),
    grid: Annotated[bool, typer.Option("--grid", help="Also a contact sheet of all of them.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; left out: chosen.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; left out: chosen.")] = None,
    engine: Annotated[
        str, typer.Option(help="torch, openvino, or auto: the fastest that is there.")
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="Of the OpenVINO engine: fp16 or int8; left out: int8 if exported.")
    ] = None,
    guidance_until: Annotated[
        float, typer.Option(help="Share of the steps that are guided, from the first; the rest cost half.")
    ] = 1.0,
    reuse: Annotated[
        int, typer.Option(help="Run the UNet's deep blocks in each n-th step only (DeepCache); 1: in all.")
    ] = 1,
    tiny_decoder: Annotated[
        Path | None,
        typer.Option(help="Folder of an AutoencoderTiny to decode with; mini-tiny: the miniatures'."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch: compile the transformer blocks first, once a machine.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of file names.")
    ] = False,
) -> None:
    """Make pictures from a sentence; every PNG carries the request that made it.

    Without --model the embedded miniature draws, offline. Size, steps, guidance and scheduler are the model's
    own unless they are given.

    Examples:
        ssd1b generate "a fox, flat style, on a blue background"

        ssd1b generate "a pizza above a rocket" --aspect 7:9 --seed 7 --count 4 --grid

        ssd1b generate "a lighthouse" --model segmind/SSD-1B --negative "blurry"    # full size
    """
    from ssd1b.generate.asked import Asked, Savings, refuse_nonsense
    from ssd1b.generate.load import wish_of

    savings = Savings(guidance_until, reuse)
    asked = Asked(prompt, negative, size, aspect, steps, guidance, scheduler, seed, savings)
    refuse_nonsense(asked)
    wish = wish_of(engine, precision, compiled=compiled, decoder=tiny_decoder)
    loaded = load_named(model, device=device, dtype=dtype, wish=wish)
    requests = _requests(asked, loaded, count)
    made = _make(loaded, requests, batch, Places(out, requests[0], single=count == 1 and not grid))
    if grid:
        made.sheet = made.places.save_sheet(made.images)
    if as_json:
        show.print_json(made.record())
    else:
        for path in [*made.files, *([made.sheet] if made.sheet else [])]:
            show.stdout().print(str(path), markup=False, soft_wrap=True)


def load_named(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    wish: EngineWish | None = None,
) -> Model:
    """Load a model, with a bar where it must be fetched."""
    from ssd1b.mini import embedded

    if name in embedded.NAMES:
        show.say(_MINIATURE.format(name))
    from ssd1b.generate.load import AUTO, load

    with downloads() as listener:
        return load(name, device=device, dtype=dtype, wish=wish or AUTO, listener=listener)


@contextmanager
def downloads() -> Iterator[Listener]:
    """A listener that shows a bar as soon as bytes flow."""
    from ssd1b.formats.hub import Listener

    with ExitStack() as stack:
        bars: list[Callable[[int, int], None]] = []

        def on_bytes(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(show.counting_bytes("fetching")))
            bars[0](done, total)

        yield Listener(show.say, on_bytes)


def _requests(asked: Asked, model: Model, count: int) -> list[Request]:
    """Complete the wish, and say what will be done before it takes its time."""
    from ssd1b.generate.asked import completed, remarks

    requests = completed(asked, model, count)
    first = requests[0]
    for remark in remarks(first, model):
        show.say(remark)
    show.say(
        f"{first.width}x{first.height}, {first.steps} steps of {first.scheduler}, guidance {first.guidance:g}"
        f", seed {first.seed} (where nothing was said: as {model.defaults.source} has it)."
    )
    show.say(f"On {model.placement.reason}.")
    return requests


@dataclass(slots=True)
class Made:
    """What came of a run."""

    places: Places
    requests: Sequence[Request]
    images: list[Image]
    files: list[Path]
    seconds: float = 0.0
    sheet: Path | None = None

    def record(self) -> dict[str, object]:
        """The JSON of `--json`; `request` is the first picture's, `seconds` are without loading."""
        return {
            "files": [str(path) for path in self.files],
            "grid": str(self.sheet) if self.sheet else None,
            "seed": self.requests[0].seed,
            "seconds": round(self.seconds, 3),
            "request": self.requests[0].model_dump(),
        }


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files go: into a folder under names of their own, or (a single one) exactly where asked."""

    out: Path
    first: Request
    single: bool

    def save(self, image: Image, request: Request) -> Path:
        """Write one picture."""
        from ssd1b.generate.picture import file_name, png_bytes, save

        return save(png_bytes(image, request), self._path(file_name(request), str(request.seed)))

    def save_sheet(self, images: Sequence[Image]) -> Path:
        """Write the contact sheet of all pictures; it carries the first one's request."""
        from ssd1b.generate.picture import contact_sheet, file_name, png_bytes, save

        path = self._path(file_name(self.first, "grid"), "grid")
        return save(png_bytes(contact_sheet(images), self.first), path)

    def _path(self, own_name: str, word: str) -> Path:
        if self.out.suffix.lower() != ".png":
            return self.out / own_name
        return self.out if self.single else self.out.with_stem(f"{self.out.stem}-{word}")


def _make(model: Model, requests: Sequence[Request], batch: int, places: Places) -> Made:
    """Make and save batch by batch, so that what is finished is there when a run is interrupted."""
    from ssd1b.generate.pipeline import batches, sample

    made = Made(places, requests, [], [])
    parts = list(batches(requests, batch))
    start = time.monotonic()
    with show.counting("drawing", len(parts) * requests[0].steps, "steps") as advance:
        for part in parts:
            images = sample(model, part, lambda _: advance(1))
            made.images += images
            made.files += [places.save(*pair) for pair in zip(images, part, strict=True)]
    made.seconds = time.monotonic() - start
    pictures = "1 picture" if len(requests) == 1 else f"{len(requests)} pictures"
    show.say(f"{pictures} in {human_seconds(made.seconds)}.")
    return made
