"""Which files of a hub repository are fetched, decided before any of them is: an allow-list.

Knows names only: the network is `hub`'s business, the content that of the readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ssd1b.base.errors import HubError

PIPELINES = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
# Part -> the classes that it may be of. Parts that pictures do not need are allowed, but not fetched.
CLASSES: dict[str, tuple[str, ...]] = {
    "unet":              ("UNet2DConditionModel",),
    "vae":               ("AutoencoderKL",),
    "text_encoder":      ("CLIPTextModel",),
    "text_encoder_2":    ("CLIPTextModelWithProjection",),
    "tokenizer":         ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2":       ("CLIPTokenizer", "CLIPTokenizerFast"),
    "feature_extractor": ("CLIPImageProcessor", "CLIPFeatureExtractor"),
    "image_encoder":     ("CLIPVisionModelWithProjection",),
}  # fmt: skip
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
NEEDED = (*WEIGHTED, "tokenizer", "tokenizer_2", "scheduler")
_LIBRARIES = ("diffusers", "transformers")
_SCHEDULER = re.compile(r"[A-Za-z0-9]{1,60}Scheduler")
_TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
TOKENIZERS = frozenset(f"{part}/{name}" for part in ("tokenizer", "tokenizer_2") for name in _TOKENIZER_FILES)
_SMALL = TOKENIZERS | {
    "model_index.json",
    "manifest.json",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in WEIGHTED),
}
_WEIGHTS = re.compile(
    rf"(?P<part>{'|'.join(WEIGHTED)})/(model|diffusion_pytorch_model)"
    r"((\.fp16)?(-\d{5}-of-\d{5})?(\.fp16)?\.safetensors|\.safetensors\.index(\.fp16)?\.json)"
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def refuse_strange_parts(repo_id: str, index: Mapping[str, object]) -> None:
    """Check model_index.json against the allow-list: nothing in it may name code that we do not know.

    Raises:
        HubError: another kind of pipeline, or a part of another class or library.
    """
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise HubError(
            f"{repo_id} is a {kind}, and only pipelines of the SDXL family are run ({PIPELINES[0]}). "
            "Give an SDXL, SSD-1B or Vega model."
        )
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue
        library, name = (str(word) for word in entry) if len(entry) == 2 else ("?", str(entry))
        known = name in CLASSES.get(part, ()) or (part == "scheduler" and _SCHEDULER.fullmatch(name))
        if library not in _LIBRARIES or not known:
            raise HubError(
                f"{repo_id} asks for the class '{library}.{name}' as its '{part}', which is not on the "
                "list of classes that are run. Code that comes with a model is never executed; use another "
                "model."
            )


def chosen(repo_id: str, names: Iterable[str]) -> tuple[str, ...]:
    """Pick the files to fetch: small ones by name, weights as safetensors, the fp16 ones if there are.

    Raises:
        HubError: a part is missing, or there only as a pickle.
    """
    present = sorted(set(names))
    if "model_index.json" not in present:
        raise HubError(
            f"{repo_id} has no model_index.json, so it is not a diffusers pipeline. Download its "
            ".safetensors file and give that as the model, or give another id."
        )
    picked = [name for name in present if name in _SMALL]
    for part in WEIGHTED:
        weights = [name for name in present if (found := _WEIGHTS.fullmatch(name)) and found["part"] == part]
        if not weights:
            raise HubError(_without_weights(repo_id, part, present))
        half = [name for name in weights if ".fp16" in name]
        picked += half or weights
    for part in NEEDED:
        if not any(name.startswith(f"{part}/") for name in picked):
            raise HubError(
                f"{repo_id} has no folder '{part}', so it is not a complete pipeline. Give another id."
            )
    return tuple(picked)


def _without_weights(repo_id: str, part: str, names: Iterable[str]) -> str:
    if any(name.startswith(f"{part}/") and name.endswith(_PICKLES) for name in names):
        return (
            f"{repo_id} has the weights of its '{part}' only as a pickle, which can run code when opened "
            "and is never read. Ask its author for safetensors, or convert it first on a machine you can "
            "spare."
        )
    return f"{repo_id} has no weights for its '{part}', so it is not a complete pipeline. Give another id."
