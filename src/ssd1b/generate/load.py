"""A model by the name a person gives it: embedded, a folder, a single file, or an id on the hub.

Only safetensors are read, no class is ever looked up by a name from a file, and no code comes with a model.
Does not know how pictures are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch

from ssd1b.base.errors import LayoutError, MissingFileError, RequestError, did_you_mean, nearest
from ssd1b.base.files import MANIFEST
from ssd1b.formats import hub
from ssd1b.formats.diffusers_folder import open_folder, read_json
from ssd1b.formats.openvino_ir import Precision, is_export, place_of, read_record
from ssd1b.generate import openvino
from ssd1b.generate.adapters import Adapter, put_on
from ssd1b.generate.engines.torch import TinyAutoencoder, TorchAutoencoder, TorchDenoiser, compiled
from ssd1b.generate.model import Model, defaults_of
from ssd1b.generate.unpack import unpacked
from ssd1b.models.device import Placement, choose
from ssd1b.models.encoders import load_text, load_tiny_vae, load_vae
from ssd1b.models.folder import load_unet
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

ENGINES = ("auto", "torch", "openvino")
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DEFAULT = "mini-ssd"
PHOTOGRAPHS = "segmind/SSD-1B"
_KNOWN_ON_HUB = (PHOTOGRAPHS, "segmind/Segmind-Vega", "stabilityai/stable-diffusion-xl-base-1.0")


@dataclass(frozen=True, slots=True)
class EngineWish:
    """Which engine is to run the networks.

    Attributes:
        engine: "torch", "openvino", or "auto": the fastest that is there for this model and device.
        precision: of OpenVINO's networks, "fp16" or "int8"; None: eight bits where they were exported.
        compiled: whether torch compiles the transformer blocks first (a minute, then about a tenth faster).
        channels_last: whether torch keeps channels innermost; None: on graphics cards.
        decoder: folder of an `AutoencoderTiny` that is to be used instead of the model's own autoencoder, or
            "mini-tiny" for the miniatures'.
    """

    engine: str = "auto"
    precision: Precision | None = None
    compiled: bool = False
    channels_last: bool | None = None
    decoder: Path | None = None


AUTO, TORCH = EngineWish(), EngineWish("torch")


def load(
    name: str = DEFAULT,
    *,
    device: str | None = None,
    dtype: str | None = None,
    wish: EngineWish = AUTO,
    listener: hub.Listener | None = None,
    adapters: Sequence[Adapter] = (),
) -> Model:
    """Find a model and bring it onto the device, ready for `pipeline.sample`.

    Args:
        name: "mini-ssd" and the other embedded ones; a diffusers folder; an SDXL single file
            (.safetensors); or a hub id such as "segmind/SSD-1B", with a pinned revision as
            "segmind/SSD-1B@<commit>".
        device: "cpu", "cuda", "cuda:1", "mps"; None lets the machine choose, as for dtype.
        dtype: "float32", "float16", "bfloat16".
        wish: which engine is to run it.
        listener: hears of downloads, and how the adapters fit.
        adapters: LoRA adapters that the model is to wear; torch runs it then.

    Raises:
        RequestError: no model, device or dtype has that name; the nearest is suggested.
        HubError, MissingFileError, DamagedFileError, LayoutError: the model cannot be had or read.
    """
    if adapters:
        wish = refuse_exports(wish)
    placement = choose(device, dtype)
    folder = find(name, listener)
    export, reason = export_for(name, folder, placement, wish)
    if export is not None:
        return with_tiny_decoder(_read_export(name, export, placement, dtype, reason), wish)
    reason = "LoRA adapters need it" if adapters else reason
    model = read_model(public_name(name), folder, placement, reason)
    if adapters:
        model = put_on(model, adapters, (listener or hub.Listener()).note)
    return with_tiny_decoder(prepared(model, wish), wish)


def refuse_exports(wish: EngineWish) -> EngineWish:
    """The wish for torch that adapters make of "auto"; an export's weights cannot be changed.

    Raises:
        RequestError: OpenVINO was wished for.
    """
    if wish.engine == "openvino" or wish.precision is not None:
        raise RequestError(
            "LoRA adapters change the weights, which OpenVINO's exports have no more. Leave --engine and"
            " --precision out (torch then runs the model), or leave --lora out."
        )
    return replace(wish, engine="torch")


def _read_export(name: str, export: Path, placement: Placement, dtype: str | None, reason: str) -> Model:
    from ssd1b.generate.openvino.engine import Settings
    from ssd1b.generate.openvino.load import read_export

    asked = "bf16" if placement.dtype is torch.bfloat16 else "f32"
    numbers = "auto" if dtype is None else asked
    return read_export(public_name(name), export, Settings(precision=numbers), reason)


def prepared(model: Model, wish: EngineWish) -> Model:
    """Make torch's UNet ready as it was wished for.

    Raises:
        RequestError: compiling is not possible here.
    """
    assert isinstance(model.denoiser, TorchDenoiser), "an export is ready as it is"
    last = model.placement.device.type == "cuda" if wish.channels_last is None else wish.channels_last
    if last:
        model.denoiser.unet.to(memory_format=torch.channels_last)
    if wish.compiled:
        compiled(model.denoiser.unet)
    said = [word for word, true in (("channels last", last), ("compiled", wish.compiled)) if true]
    reason = ", ".join([model.placement.reason, *said])
    return replace(model, placement=replace(model.placement, reason=reason))


def with_tiny_decoder(model: Model, wish: EngineWish) -> Model:
    """The model with another autoencoder, where one was given; torch runs it, on any engine.

    Raises:
        RequestError: the miniatures' decoder was wished for, and this is a model for photographs.
    """
    from ssd1b.mini import embedded

    if wish.decoder is None:
        return model
    if str(wish.decoder) in embedded.DECODERS:
        name, folder = str(wish.decoder), embedded.folder(str(wish.decoder))
        if not model.miniature:
            raise RequestError(
                f"{name} decodes the latents of the miniatures, and {model.name} draws photographs. Give the"
                " folder of a decoder made for it, such as madebyollin/taesdxl."
            )
    else:
        name, folder = wish.decoder.resolve().name, wish.decoder
    vae = load_tiny_vae(folder, device=model.placement.device, dtype=model.placement.dtype)
    return replace(model, vae=TinyAutoencoder(vae), decoder=name, decoder_folder=folder)


def wish_of(
    engine: str = "auto", precision: str | None = None, *, compiled: bool = False, decoder: Path | None = None
) -> EngineWish:
    """A wish in a person's words, checked before gigabytes are fetched.

    Raises:
        RequestError: no engine or precision is called that, or the engine is not installed.
    """
    if engine not in ENGINES:
        hint = did_you_mean(engine, ENGINES)
        raise RequestError(f"No engine is called '{engine}'.{hint} There are: {', '.join(ENGINES)}.")
    if precision is not None and precision not in PRECISIONS:
        raise RequestError(f"No precision is called '{precision}'. There are: {', '.join(PRECISIONS)}.")
    if engine == "torch" and precision:
        raise RequestError("--precision is OpenVINO's; for the torch engine give --dtype.")
    if compiled and engine == "openvino":
        raise RequestError("--compile is torch's; OpenVINO compiles by itself. Leave it out.")
    if engine == "openvino":
        openvino.needed()
    chosen = next((each for each in PRECISIONS if each == precision), None)
    return EngineWish("torch" if compiled else engine, chosen, compiled, decoder=decoder)


def export_for(name: str, folder: Path, placement: Placement, wish: EngineWish) -> tuple[Path | None, str]:
    """The export that is to run a model, or None for torch, and in a few words why.

    Raises:
        RequestError: the wish and the model do not fit, or there is no export as it was wished for.
    """
    if is_export(folder):
        return _whole(folder, placement, wish), "the model is an export for it"
    if wish.engine == "torch":
        return None, "asked for"
    precisions: tuple[Precision, ...] = (wish.precision,) if wish.precision else ("int8", "fp16")
    there = [place for place in (place_of(folder, each) for each in precisions) if is_export(place)]
    if wish.engine == "openvino":
        return _asked_for(name, there, placement, wish), "asked for"
    if placement.device.type != "cpu":
        return None, "the engine for this device"
    if not openvino.installed():
        return None, f"OpenVINO, faster on processors, is not installed: {openvino.INSTALL}"
    if not there:
        return None, f"nothing faster is there; `ssd1b export {name} --to openvino` makes it"
    return there[0], "the fastest here"


def _asked_for(name: str, there: Sequence[Path], placement: Placement, wish: EngineWish) -> Path:
    if placement.device.type != "cpu":
        raise RequestError(f"The OpenVINO engine runs on the processor, and {placement.device} was chosen.")
    if not there:
        raise RequestError(
            f"{name} has not been exported for OpenVINO in this precision yet. Do so once:"
            f" ssd1b export {name} --to openvino --precision {wish.precision or 'int8'}"
        )
    return there[0]


def _whole(folder: Path, placement: Placement, wish: EngineWish) -> Path:
    """An export given as the model itself: it runs on OpenVINO or not at all."""
    openvino.needed()
    record = read_record(folder)
    if wish.engine == "torch":
        raise RequestError(f"{folder} is an export for OpenVINO; torch cannot run it. Give the model itself.")
    if wish.precision not in (None, record.precision):
        raise RequestError(f"{folder} is an export in {record.precision}, not in {wish.precision}.")
    if placement.device.type != "cpu":
        raise RequestError(f"{folder} is an export for processors, and {placement.device} was chosen.")
    return folder


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


def read_model(name: str, folder: Path, placement: Placement, why: str = "") -> Model:
    """Read a diffusers pipeline folder of the SDXL family.

    `why` says why torch runs it. Headers are checked before any weight is read, so that a missing or damaged
    file is named in one sentence.
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
        vae=TorchAutoencoder(load_vae(folder, device=placement.device, dtype=placement.dtype)),
        text=load_text(folder, device=placement.device, dtype=placement.dtype),
        scheduler_config=scheduler_config,
        shape=shape,
        defaults=defaults_of(shape, scheduler_config, takes_guidance=takes_guidance, manifest=manifest),
        placement=replace(placement, reason=f"{placement.reason}, by torch ({why})") if why else placement,
        zero_negative=bool(pipeline.index.get("force_zeros_for_empty_prompt", True)),
        takes_guidance=takes_guidance,
    )


def public_name(name: str) -> str:
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
