"""`ssd1b generate`: pictures from a sentence.

Wires wish, model and files together and says what happens; how a picture is made is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssd1b.cli import drawing, show

if TYPE_CHECKING:
    from ssd1b.formats.hub import Listener
    from ssd1b.generate.adapters import Adapter
    from ssd1b.generate.load import EngineWish
    from ssd1b.generate.model import Model

_MINIATURE = (
    "Drawing with the embedded miniature '{}': small scenes of a few things, not photographs."
    " For photographs: --model segmind/SSD-1B (4.5 GB, fetched once)."
)


def command(
    prompt: Annotated[str | None, typer.Argument(help="What is to be seen.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="An embedded model (mini-ssd if left out), a diffusers folder, a .safetensors file, or a hub"
            " id[@revision].",
        ),
    ] = None,
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
        str | None,
        typer.Option(help="euler, euler-a, dpm++-2m, dpm++-2m-karras, dpm++-sde, ddim, unipc or lcm."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture; left out: a new one.")] = None,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many, with seeds counting up.")] = 1,
    batch: Annotated[
        int,
        typer.Option(
            "--batch", min=1, max=256, help="How many at once; above 1 the last bit of rounding may differ."
        ),
    ] = 1,
    image: Annotated[Path | None, typer.Option(help="A picture to paint over: PNG, JPEG or WebP.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Where to paint over it: white is painted anew, black stays.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far to go from it, above 0 and up to 1; left out: 0.6.")
    ] = None,
    hires: Annotated[
        float | None, typer.Option(help="Second pass, so many times larger a side: 1 to 4.")
    ] = None,
    hires_strength: Annotated[
        float | None, typer.Option(help="How far the second pass goes from the first; left out: 0.7.")
    ] = None,
    hires_upscaler: Annotated[
        Literal["latent", "lanczos"] | None, typer.Option(help="What is enlarged between the passes.")
    ] = None,
    upscale: Annotated[
        int | None, typer.Option(help="Enlarge the finished picture by Lanczos, 2 to 4 times a side.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA file, with its weight: style.safetensors:0.8. May be given several times."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt a line.")] = None,
    wildcards: Annotated[
        Path | None, typer.Option(help="A folder of text files; __color__ takes a line of color.txt.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Take brackets, BREAK and gaps in prompts as they stand.")
    ] = False,
    like: Annotated[
        Path | None, typer.Option(help="Make this picture again, with whatever else is said changed.")
    ] = None,
    xy: Annotated[
        list[str] | None,
        typer.Option(help="Vary a field along a side of a grid: steps=4,8,25. Once or twice."),
    ] = None,
    out: Annotated[Path, typer.Option(help="A folder, or a .png, .jpg or .webp file.")] = Path("out"),
    kind: Annotated[
        Literal["png", "jpg", "webp"], typer.Option("--format", help="Of the files in the folder.")
    ] = "png",
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
        float | None,
        typer.Option(help="Share of the steps that are guided, from the first; the rest cost half."),
    ] = None,
    reuse: Annotated[
        int | None,
        typer.Option(help="Run the UNet's deep blocks in each n-th step only (DeepCache); 1: in all."),
    ] = None,
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
    """Make pictures from a sentence; every picture carries the request that made it.

    Without --model the embedded miniature draws, offline. Size, steps, guidance and scheduler are the model's
    own unless they are given.

    Examples:
        ssd1b generate "a fox, flat style, on a blue background"

        ssd1b generate "a pizza above a rocket" --aspect 7:9 --seed 7 --count 4 --grid

        ssd1b generate "a lighthouse" --model segmind/SSD-1B --negative "blurry"    # full size
    """
    from ssd1b.generate.asked import Asked
    from ssd1b.generate.axes import parse_axes
    from ssd1b.generate.load import DEFAULT, wish_of
    from ssd1b.generate.places import Places
    from ssd1b.generate.wildcards import Wildcards

    more: dict[str, object] = {"guidance_until": guidance_until, "reuse": reuse, "strength": strength}
    more |= {"hires": hires, "hires_strength": hires_strength, "hires_upscaler": hires_upscaler}
    more |= {"upscale": upscale, "syntax": "plain" if plain else None}
    again = drawing.like_of(like)
    texts = drawing.texts_of(prompt, prompts, again)
    said = (negative, size, aspect, steps, guidance, scheduler, seed, drawing.canvas_of(image, mask), more)
    gaps = Wildcards(wildcards)
    wanted = drawing.Wanted([Asked(text, *said, gaps) for text in texts], count, parse_axes(xy or ()), again)
    drawing.refuse_nonsense(wanted)
    wish = wish_of(engine, precision, compiled=compiled, decoder=tiny_decoder)
    name = model or (again.request.model if again else "") or DEFAULT
    worn = drawing.adapters_of(lora or (), again)
    loaded = load_named(name, device=device, dtype=dtype, wish=wish, adapters=worn)
    requests = drawing.requests_of(wanted, loaded)
    sheet = grid or bool(wanted.axes)
    single = len(requests) == 1 and not sheet
    places = Places(out, requests[0], single, f".{kind}", wanted.axes, loaded.engine)
    places.refuse_what_no_file_holds(requests)
    made = drawing.draw(loaded, requests, wanted.canvases(), batch, places)
    if sheet:
        made.sheet = places.save_sheet(made.images)
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
    adapters: Sequence[Adapter] = (),
) -> Model:
    """Load a model, with a bar where it must be fetched."""
    from ssd1b.mini import embedded

    if name in embedded.NAMES:
        show.say(_MINIATURE.format(name))
    from ssd1b.generate.load import AUTO, load

    with downloads() as listener:
        return load(name, device=device, dtype=dtype, wish=wish or AUTO, listener=listener, adapters=adapters)


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
