"""Where a student's weights come from, and how it is written as a model others can load.

Knows plans, state dicts and the diffusers folder layout. Does not know training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssd1b.base.errors import RecipeError
from ssd1b.base.files import finished_folder, write_manifest
from ssd1b.base.seeds import seed_of
from ssd1b.distill import lesson
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.models.schedule import prediction_of, prediction_type
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape
from ssd1b.surgery.carve import carve_state

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_LAST_LAYERS = ("conv2", "proj_out")  # of ResnetBlock2D and Transformer2DModel
_BLOCK_LAST_LAYERS = (".to_out.0.", ".ff.net.2.")  # of BasicTransformerBlock


def from_scratch(plan: LayerPlan, seed: int) -> UNet2DConditionModel:
    """A random student whose residual and attention blocks begin as the identity.

    Their last layers and the UNet's start at zero, so a deep UNet learns from the first step.
    """
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "start"))
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(plan.unet_config())
    for name, module in unet.named_modules():
        if name.rsplit(".", 1)[-1] in _LAST_LAYERS or name == "conv_out":
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)
    return unet


def from_state(plan: LayerPlan, state: Mapping[str, Tensor]) -> UNet2DConditionModel:
    """The plan's student with exactly these weights, copied into float32 one by one."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(plan.unet_config())
    own = {name: value.detach().to(torch.float32, copy=True) for name, value in state.items()}
    unet.load_state_dict(own, assign=True)
    return unet


def carved(plan: LayerPlan, teacher: Mapping[str, Tensor]) -> UNet2DConditionModel:
    """The plan's student with its teacher's weights."""
    return from_state(plan, carve_state(teacher, plan))


def carved_further(plan: LayerPlan, before: LayerPlan, state: Mapping[str, Tensor]) -> UNet2DConditionModel:
    """The plan's student with the weights of an earlier student of the same teacher that kept more.

    Raises:
        RecipeError: the plan keeps a layer that the earlier student no longer has.
    """
    check_nested(plan, before)
    return carved(plan, {before.teacher_key(key): value for key, value in state.items()})


def check_nested(plan: LayerPlan, before: LayerPlan) -> None:
    """See that a student of `before` has every layer that one of `plan` is carved from.

    Raises:
        RecipeError: it has not.
    """
    if plan.teacher != before.teacher or set(plan.weight_map().values()) - set(before.weight_map().values()):
        raise RecipeError(
            f"A student of plan '{plan.name}' cannot be carved from one of plan '{before.name}', which no "
            "longer has all its layers. Remove layers in the order in which the plans nest."
        )


def grown(plan: LayerPlan, before: LayerPlan, state: Mapping[str, Tensor], seed: int) -> UNet2DConditionModel:
    """The plan's student, which has layers that an earlier student of the same teacher lacked.

    The new layers begin as the identity (their last layers are zero), so both UNets compute the same at
    first: a deep UNet may learn its first lessons while it is shallow and cheap (Net2DeeperNet,
    arXiv:1511.05641).

    Raises:
        RecipeError: the plan lacks a layer of the earlier student, or both have other teachers.
    """
    check_growable(plan, before)
    by_teacher_key = {before.teacher_key(key): value for key, value in state.items()}
    unet = from_scratch(plan, seed)
    weights = unet.state_dict()
    for key, value in weights.items():
        old = by_teacher_key.get(plan.teacher_key(key))
        if old is not None:
            weights[key] = old
        elif any(name in key for name in _BLOCK_LAST_LAYERS):
            weights[key] = torch.zeros_like(value)
    unet.load_state_dict(weights)
    return unet


def check_growable(plan: LayerPlan, before: LayerPlan) -> None:
    """See that a student of `plan` has every layer of one of `before`.

    Raises:
        RecipeError: it has not, or both have other teachers.
    """
    lacks = set(before.weight_map().values()) - set(plan.weight_map().values())
    if plan.teacher != before.teacher or lacks:
        raise RecipeError(
            f"A student of plan '{plan.name}' cannot be grown from one of plan '{before.name}', which has"
            " layers that it lacks. Grow to a plan that keeps all the layers of the earlier one, of the same"
            " teacher."
        )


def check_origin(plan: LayerPlan, shape: UNetShape, stage: str, name: str) -> None:
    """See that the plan's student can start from a UNet of this shape: its own, or its teacher's.

    Raises:
        RecipeError: it cannot; stage and model are named.
    """
    if shape != plan.shape and not lesson.is_cut_from(plan, shape):
        raise RecipeError(
            f"Stage '{stage}': the UNet of '{name}' has neither the layout of plan '{plan.name}' nor "
            "that of its teacher, so the student cannot start from it."
        )


def _lend(parts: Path, folder: Path) -> None:
    """Copy the pipeline's index and parts but the UNet; other files there are the lender's own story."""
    for path in parts.iterdir():
        if path.is_dir() and path.name != "unet" and not path.name.startswith("."):
            shutil.copytree(path, folder / path.name)
        elif path.name == "model_index.json":
            shutil.copy(path, folder)


def _say_prediction(path: Path, prediction: str) -> None:
    """Let a scheduler's config name what the student predicts, where its lender predicted something else."""
    config = read_json(path) if path.is_file() else {}
    if config and prediction_of(config, str(path)) != prediction:
        config["prediction_type"] = prediction_type(prediction)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside a student's UNet: parts copied from a model, what it predicts, and a model card."""

    parts: Path | None
    prediction: str = "epsilon"
    card: str = ""


def write_model(
    config: Mapping[str, object],
    weights: Mapping[str, Tensor],
    beside: Beside | None,
    out: Path,
    command: Sequence[str],
    **facts: object,
) -> None:
    """Write a student as a complete diffusers folder, its UNet and what is `beside` it, or its UNet only.

    Weights are written as they are, float32; the scheduler says what they predict.
    """
    from diffusers import UNet2DConditionModel

    with finished_folder(out, replace=True) as folder:
        if beside is not None and beside.parts is not None:
            _lend(beside.parts, folder)
            _say_prediction(folder / "scheduler" / "scheduler_config.json", beside.prediction)
        if beside is not None and beside.card:
            (folder / "README.md").write_text(beside.card, encoding="utf-8")
        unet_folder = folder / "unet"
        unet_folder.mkdir()
        with torch.device("meta"):
            UNet2DConditionModel.from_config(dict(config)).save_config(unet_folder)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(plain, unet_folder / _WEIGHTS, metadata={"format": "pt"})
        write_manifest(folder, command=command, inputs={}, **facts)
