"""SDXL single-file checkpoints as A1111, ComfyUI and stable-diffusion.cpp use them: open one, or make one.

The second text encoder is stored as OpenCLIP stores it: query, key and value in one matrix, the projection
transposed. Taking that apart and putting it together are views on the file, so nothing is read here but
headers. Configs come from the file's metadata where this project wrote it, else from `sdxl_configs`. Knows no
layer plans; a single file holds no tokenizers (see `tokenizer_files`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError
from ssd1b.formats.ldm_keys import (
    OPEN_CLIP_ENDS,
    OPEN_CLIP_LAYERS,
    Names,
    open_clip_layer,
    unet_from_ldm,
    unet_to_ldm,
    vae_from_ldm,
    vae_to_ldm,
)
from ssd1b.formats.pipeline import Part, Pipeline, as_json
from ssd1b.formats.safetensors_io import TensorFile, read_file
from ssd1b.formats.sdxl_configs import MODEL_INDEX, scheduler_config, text_config, vae_config
from ssd1b.formats.unet_layout import refuse_misfits, shape_from_tensors
from ssd1b.formats.views import View, joined
from ssd1b.plan.shape import shape_of

CONFIGS = "ssd1b.configs"  # metadata key under which `to_single_file` keeps all configs as JSON
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
# What else comes as one .safetensors file: a key that only it has, and what it is.
_OTHERS = (
    ("cond_stage_model.", "a Stable Diffusion 1.x or 2.x checkpoint, which has other layers"),
    ("conditioner.embedders.0.model.", "the SDXL refiner, which has other layers"),
    ("lora_", "a LoRA, which changes a model but is none"),
    ("down_blocks.", "the UNet of a diffusers folder on its own; give the folder with model_index.json"),
    ("model.diffusion_model.double_blocks.", "a Flux checkpoint, which has other layers"),
    ("model.diffusion_model.joint_blocks.", "a Stable Diffusion 3 checkpoint, which has other layers"),
)
_QKV = ("q_proj", "k_proj", "v_proj")
_FILE_NAMES = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
Views = dict[str, View]


def open_single_file(path: Path) -> Pipeline:
    """Open a single-file SDXL checkpoint; the pipeline lacks its tokenizers until they are added.

    Raises:
        MissingFileError: the file, or a part of the model in it, is not there.
        DamagedFileError: it is cut short or no safetensors file by content.
        LayoutError: it is another kind of model.
    """
    file = read_file(path)
    weights = _weights(path, file.tensors)
    sizes = {part: {name: view.shape for name, view in views.items()} for part, views in weights.items()}
    configs = {**_standard_configs(path, sizes, file.tensors), **_configs(file)}
    refuse_misfits(sizes["unet"], shape_of(configs["unet"]), str(path))
    files = {part: TensorFile((path,), views, {"format": "pt"}) for part, views in weights.items()}
    parts = [
        Part(part, {"config.json": as_json(configs[part])}, files[part], _FILE_NAMES[part])
        for part in _FILE_NAMES
    ]
    parts.append(Part("scheduler", {"scheduler_config.json": as_json(configs["scheduler"])}))
    index = configs.get("model_index", MODEL_INDEX)
    return Pipeline(path, "single file", index, files["unet"], configs["unet"], tuple(parts))


def to_single_file(pipeline: Pipeline) -> TensorFile:
    """All weights of a pipeline under the names of a single-file checkpoint, to be written with `write_file`.

    Every config goes along as metadata, so that `open_single_file` gives back the same model at any size.
    """
    weights = {part.name: part.weights.tensors for part in pipeline.parts if part.weights}
    makers: dict[str, Callable[[Mapping[str, View]], Views]] = {
        "unet": lambda views: _renamed(views, unet_to_ldm),
        "vae": lambda views: _renamed(views, vae_to_ldm),
        "text_encoder": lambda views: {_prefixed(name): view for name, view in views.items()},
        "text_encoder_2": _to_open_clip,
    }
    tensors: Views = {}
    for part, make in makers.items():
        views = make(pipeline.unet.tensors if part == "unet" else weights[part])
        tensors |= {PREFIXES[part] + name: view for name, view in views.items()}
    metadata = {"format": "pt", CONFIGS: json.dumps(all_configs(pipeline))}
    return TensorFile(pipeline.weight_files, tensors, metadata)


def all_configs(pipeline: Pipeline) -> dict[str, object]:
    """The UNet's, VAE's, text encoders' and scheduler's configs and the model index, as JSON objects."""
    configs: dict[str, object] = {"model_index": dict(pipeline.index), "unet": dict(pipeline.unet_config)}
    for part in pipeline.parts:
        name = "scheduler_config.json" if part.name == "scheduler" else "config.json"
        source = part.files.get(name)
        if source is not None and part.name in (*PREFIXES, "scheduler"):
            configs[part.name] = json.loads(source if isinstance(source, str) else source.read_text("utf-8"))
    return configs


def _weights(path: Path, tensors: Mapping[str, View]) -> dict[str, Views]:
    """The weights of each part under diffusers' names."""
    found = {part: _strip(tensors, prefix) for part, prefix in PREFIXES.items()}
    if not any(name.startswith("label_emb.") for name in found["unet"]):
        _refuse_other(path, tensors)
    absent = [part for part, views in found.items() if not views]
    if absent:
        raise MissingFileError(
            f"{path} holds no {' and no '.join(absent)}. A complete SDXL checkpoint is needed:"
            " UNet, VAE and both text encoders."
        )
    return {
        "unet": _renamed(found["unet"], unet_from_ldm),
        "vae": _vae(found["vae"]),
        "text_encoder": _first_text_encoder(found["text_encoder"]),
        "text_encoder_2": _from_open_clip(found["text_encoder_2"]),
    }


def _standard_configs(
    path: Path, sizes: Mapping[str, Mapping[str, tuple[int, ...]]], names: Iterable[str]
) -> dict[str, dict[str, object]]:
    """SDXL's configs with the sizes that the weights have."""
    try:
        pooled = sizes["text_encoder_2"]["text_projection.weight"][0]
        return {
            "unet": shape_from_tensors(sizes["unet"], pooled_dim=pooled, where=str(path)).config(),
            "vae": vae_config(sizes["vae"]),
            "text_encoder": text_config(sizes["text_encoder"]),
            "text_encoder_2": text_config(sizes["text_encoder_2"]),
            "scheduler": scheduler_config(names),
        }
    except KeyError as error:
        raise LayoutError(
            f"{path} lacks {error}, which every SDXL checkpoint has. Download it again."
        ) from error


def _configs(file: TensorFile) -> dict[str, dict[str, object]]:
    try:
        configs = json.loads(file.metadata.get(CONFIGS, "{}"))
        assert isinstance(configs, dict) and all(isinstance(one, dict) for one in configs.values())
    except (ValueError, AssertionError) as error:
        raise DamagedFileError(
            f"The configs in the metadata of {file.paths[0]} are no JSON objects."
        ) from error
    return configs


def _refuse_other(path: Path, names: Iterable[str]) -> None:
    known = list(names)
    for prefix, what in _OTHERS:
        if any(name.startswith(prefix) for name in known):
            raise LayoutError(f"{path} is {what}. Give an SDXL checkpoint.")
    raise LayoutError(
        f"{path} is not an SDXL checkpoint: it has no '{PREFIXES['unet']}label_emb.'. Give an SDXL"
        " single file or a diffusers folder."
    )


def _strip(tensors: Mapping[str, View], prefix: str) -> Views:
    return {name.removeprefix(prefix): view for name, view in tensors.items() if name.startswith(prefix)}


def _renamed(views: Mapping[str, View], rename: Callable[[Iterable[str]], Names]) -> Views:
    return {new: views[old] for old, new in rename(list(views)).items()}


def _vae(views: Mapping[str, View]) -> Views:
    """LDM keeps the attention's matrices as 1 x 1 convolutions, diffusers as matrices."""
    renamed = _renamed(views, vae_from_ldm)
    for name, view in renamed.items():
        if ".attentions." in name and len(view.shape) > 2:
            renamed[name] = view.reshaped(*view.shape[:2])
    return renamed


def _prefixed(name: str) -> str:
    """Transformers 5 saves a text encoder without `text_model.`; with it, all readers know the name."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _first_text_encoder(views: Mapping[str, View]) -> Views:
    """Stored as transformers stores it; the positions 0, 1, 2, ... are no weights."""
    return {_prefixed(name): view for name, view in views.items() if not name.endswith("position_ids")}


def _from_open_clip(views: Mapping[str, View]) -> Views:
    ends = {theirs: ours for ours, theirs in OPEN_CLIP_ENDS}
    ours, theirs = OPEN_CLIP_LAYERS
    result: Views = {}
    for name, view in views.items():
        found = re.match(rf"{re.escape(theirs)}\.(\d+)\.(.+)", name)
        if name in ends:
            result[ends[name]] = view.flipped() if name == "text_projection" else view
        elif found and found[2].startswith("attn.in_proj_"):
            width = view.shape[0] // len(_QKV)
            kind = found[2].removeprefix("attn.in_proj_")
            for place, part in enumerate(_QKV):
                cut = view.rows(place * width, (place + 1) * width)
                result[f"{ours}.{found[1]}.self_attn.{part}.{kind}"] = cut
        elif found and (inner := open_clip_layer(found[2], back=True)):
            result[f"{ours}.{found[1]}.{inner}"] = view
    return result


def _to_open_clip(given: Mapping[str, View]) -> Views:
    views = {_prefixed(name): view for name, view in given.items() if not name.endswith("position_ids")}
    ends = dict(OPEN_CLIP_ENDS)
    ours, theirs = OPEN_CLIP_LAYERS
    result: Views = {}
    for name, view in views.items():
        found = re.match(rf"{re.escape(ours)}\.(\d+)\.(.+)", name)
        if name in ends:
            result[ends[name]] = view.flipped() if name.startswith("text_projection") else view
        elif found and found[2].startswith("self_attn.q_proj."):
            kind = found[2].rpartition(".")[2]
            layer = f"{ours}.{found[1]}.self_attn"
            fused = joined(views[f"{layer}.{part}.{kind}"] for part in _QKV)
            result[f"{theirs}.{found[1]}.attn.in_proj_{kind}"] = fused
        elif found and (inner := open_clip_layer(found[2])):
            result[f"{theirs}.{found[1]}.{inner}"] = view
    return result
