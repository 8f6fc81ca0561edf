"""Between a model of ours and a stock `StableDiffusionXLPipeline` of diffusers, both ways, without a copy.

Both sides hold the very same modules: what is moved, trained or patched in one is so in the other. Does not
know prompts, nor how pictures are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssd1b.base.errors import LayoutError, RequestError
from ssd1b.generate import schedulers
from ssd1b.generate.engines.torch import TinyAutoencoder, TorchAutoencoder, TorchDenoiser
from ssd1b.generate.load import public_name
from ssd1b.generate.model import Model, defaults_of
from ssd1b.models.device import Placement
from ssd1b.models.encoders import CLIPEncoder, TextStack
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
_PARTS = (*_NETWORKS, "tokenizer", "tokenizer_2", "scheduler")
_VAES = ("AutoencoderKL", "AutoencoderTiny")


def to_stock(model: Model) -> StableDiffusionXLPipeline:
    """A stock pipeline around the model's own modules; its scheduler is the one the model is best drawn with.

    Raises:
        RequestError: another engine than torch runs the model, so there are no modules to share.
    """
    from diffusers import StableDiffusionXLPipeline

    first, second = model.text.encoders
    if not isinstance(model.denoiser, TorchDenoiser):
        raise RequestError(
            f"{model.name} runs on {model.engine}, which diffusers cannot take. Load it with engine='torch'."
        )
    assert isinstance(model.vae, TorchAutoencoder | TinyAutoencoder), "torch runs the UNet, so also the VAE"
    assert isinstance(first, CLIPEncoder) and isinstance(second, CLIPEncoder), "and so the text encoders"
    best = model.defaults
    stock = StableDiffusionXLPipeline(
        vae=model.vae.vae,
        text_encoder=first.model,
        text_encoder_2=second.model,
        tokenizer=model.text.tokenizers[0],
        tokenizer_2=model.text.tokenizers[1],
        unet=model.denoiser.unet,
        scheduler=schedulers.build(best.scheduler, model.scheduler_config, best.steps),
        force_zeros_for_empty_prompt=model.zero_negative,
        add_watermarker=False,
    )
    stock.register_to_config(_name_or_path=model.name)
    return stock


def from_stock(stock: StableDiffusionXLPipeline) -> Model:
    """A model around the modules of a stock pipeline of the SDXL family, on the device where they lie.

    Defaults follow from its UNet and scheduler, as for a folder without a manifest.

    Raises:
        LayoutError, PlanError: a part is missing or is not SDXL's.
        RequestError: accelerate moves its modules between devices.
    """
    _refuse_what_is_not_sdxl(stock)
    shape = shape_of(stock.unet.config)
    latents = stock.vae.config.latent_channels
    if shape.in_channels != latents:
        raise LayoutError(
            f"The pipeline's UNet takes {shape.in_channels} channels and its VAE gives {latents}; one made"
            " for inpainting alone cannot be wrapped. Any other SDXL model paints inside a mask here."
        )
    tiny = type(stock.vae).__name__ == "AutoencoderTiny"
    scheduler_config = {**stock.scheduler.config, "_class_name": type(stock.scheduler).__name__}
    takes_guidance = stock.unet.config.time_cond_proj_dim is not None
    device, dtype = stock.unet.device, stock.unet.dtype
    return Model(
        name=_name(stock),
        folder=None,
        denoiser=TorchDenoiser(stock.unet),
        vae=TinyAutoencoder(stock.vae) if tiny else TorchAutoencoder(stock.vae),
        text=TextStack(
            (stock.tokenizer, stock.tokenizer_2),
            (CLIPEncoder(stock.text_encoder), CLIPEncoder(stock.text_encoder_2)),
        ),
        scheduler_config=scheduler_config,
        shape=shape,
        defaults=defaults_of(shape, scheduler_config, takes_guidance=takes_guidance),
        placement=Placement(device, dtype, f"{device}, by torch (a pipeline of diffusers lies there)"),
        zero_negative=bool(stock.config.force_zeros_for_empty_prompt),
        takes_guidance=takes_guidance,
        decoder="tiny" if tiny else "",
    )


def _refuse_what_is_not_sdxl(stock: StableDiffusionXLPipeline) -> None:
    missing = [part for part in _PARTS if getattr(stock, part, None) is None]
    if missing:
        raise LayoutError(
            f"A {type(stock).__name__} without {', '.join(missing)} was given; a whole pipeline of the SDXL"
            " family is needed, such as diffusers' StableDiffusionXLPipeline."
        )
    kind = type(stock.vae).__name__
    if kind not in _VAES:
        raise LayoutError(f"The pipeline's VAE is a {kind}; one of {', '.join(_VAES)} is needed.")
    if any(hasattr(getattr(stock, network), "_hf_hook") for network in _NETWORKS):
        raise RequestError(
            "The pipeline's parts are moved between devices while it runs (CPU offload or a device map)."
            " Wrap it before that is switched on, or load it again without."
        )


def _name(stock: StableDiffusionXLPipeline) -> str:
    """What it was loaded as; of a place on this disk only the last part."""
    said = stock.config.get("_name_or_path")
    return public_name(str(Path(said))) if said else type(stock).__name__
