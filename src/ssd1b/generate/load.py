"""A model by the name a person gives it: embedded, a folder, a single file, or an id on the hub.

Only safetensors are read, no class is ever looked up by a name from a file, and no code comes with a model.
Does not know how pictures are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssd1b.base.errors import LayoutError, MissingFileError, RequestError, nearest
from ssd1b.base.files import MANIFEST
from ssd1b.formats import hub
from ssd1b.formats.diffusers_folder import open_folder, read_json
from ssd1b.generate.engines.torch import TorchDenoiser
from ssd1b.generate.model import Model, defaults_of
from ssd1b.generate.unpack import unpacked
from ssd1b.models.device import Placement, choose
from ssd1b.models.encoders import load_text, load_vae
from ssd1b.models.folder import load_unet
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

DEFAULT = "mini-ssd"
PHOTOGRAPHS = "segmind/SSD-1B"
_KNOWN_ON_HUB = (PHOTOGRAPHS, "segmind/Segmind-Vega", "stabilityai/stable-diffusion-xl-base-1.0")


def load(
    name: str = DEFAULT,
    *,
    device: str | None = None,
    dtype: str | None = None,
    listener: hub.Listener | None = None,
) -> Model:
    """Find a model and bring it onto the device, ready for `pipeline.sample`.

    Args:
        name: "mini-ssd" and the other embedded ones; a diffusers folder; an SDXL single file
            (.safetensors); or a hub id such as "segmind/SSD-1B", with a pinned revision as
            "segmind/SSD-1B@<commit>".
        device: "cpu", "cuda", "cuda:1", "mps"; None lets the machine choose, as for dtype.
        dtype: "float32", "float16", "bfloat16".
        listener: hears of downloads.

    Raises:
        RequestError: no model, device or dtype has that name; the nearest is suggested.
        HubError, MissingFileError, DamagedFileError, LayoutError: the model cannot be had or read.
    """
    placement = choose(device, dtype)
    folder = find(name, listener)
    return read_model(_public_name(name), folder, placement)


def find(name: str, listener: hub.Listener | None = None) -> Path:
    """Return the diffusers folder that `name` stands for, downloading it from the hub if need be."""
    from ssd1b.mini import embedded

    if name in embedded.NAMES:
        return embedded.folder(name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if path.is_file():
        return unpacked(path, listener or hub.Listener())
    if hub.is_id(name) and not _looks_like_a_path(name):
        return hub.fetch(*hub.split_id(name), listener=listener)
    raise _unknown(name, tuple(embedded.NAMES))


def read_model(name: str, folder: Path, placement: Placement) -> Model:
    """Read a diffusers pipeline folder of the SDXL family.

    Headers are checked before any weight is read, so that a missing or damaged file is named in one sentence.
    """
    pipeline = open_folder(folder)
    _refuse_other_vae(folder)
    shape = shape_of(pipeline.unet_config)
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    unet = load_unet(folder, device=placement.device, dtype=placement.dtype)
    unet.requires_grad_(False)
    takes_guidance = _takes_guidance(unet)
    return Model(
        name=name,
        folder=folder,
        denoiser=TorchDenoiser(unet),
        unet=unet,
        vae=load_vae(folder, device=placement.device, dtype=placement.dtype),
        text=load_text(folder, device=placement.device, dtype=placement.dtype),
        scheduler_config=scheduler_config,
        shape=shape,
        defaults=defaults_of(shape, scheduler_config, takes_guidance=takes_guidance, manifest=manifest),
        placement=placement,
        zero_negative=bool(pipeline.index.get("force_zeros_for_empty_prompt", True)),
        takes_guidance=takes_guidance,
    )


def _public_name(name: str) -> str:
    """The name that goes into pictures: of a place on this disk only its last part."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name


def _takes_guidance(unet: UNet2DConditionModel) -> bool:
    return unet.config.time_cond_proj_dim is not None


def _refuse_other_vae(folder: Path) -> None:
    kind = read_json(folder / "vae" / "config.json").get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise LayoutError(
            f"{folder / 'vae'} is a {kind}; an AutoencoderKL is needed. Put SDXL's own VAE there."
        )


def _looks_like_a_path(name: str) -> bool:
    """Whether a name that could be a hub id is meant as a place on this disk."""
    return name.startswith((".", "/", "~")) or name.endswith((".safetensors", ".ckpt", ".pt"))


def _unknown(name: str, embedded: tuple[str, ...]) -> Exception:
    if _looks_like_a_path(name) or name.count("/") > 1:
        return MissingFileError(f"There is no model at {name}: neither a folder nor a file. Check the path.")
    by_short_name = {known.rpartition("/")[2].lower(): known for known in (*embedded, *_KNOWN_ON_HUB)}
    guess = nearest(name.rpartition("/")[2].lower(), by_short_name)
    hint = f" Did you mean '{by_short_name[guess]}'?" if guess else ""
    return RequestError(
        f"No model is called '{name}'.{hint} A model is one of the embedded ones ({', '.join(embedded)}), "
        f"a diffusers folder, a .safetensors file, or an id on the hub such as {PHOTOGRAPHS}."
    )
