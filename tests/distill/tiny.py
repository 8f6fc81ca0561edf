"""Tiny plans, models and batches for the tests of this room."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from ssd1b.base.seeds import seed_of
from ssd1b.distill.recipe import Recipe, Stage
from ssd1b.distill.stages import Providers, Run
from ssd1b.distill.student import from_scratch, write_model
from ssd1b.models.batch import Batch, Caption
from ssd1b.plan import catalog
from ssd1b.plan.layers import LayerPlan

SHAPE = replace(
    catalog.find("mini-sdxl").teacher,
    channels=(8, 8, 16),
    heads=(1, 1, 2),
    cross_attention_dim=12,
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=8 + 6 * 4,
    norm_num_groups=4,
    sample_size=8,
)


# Half of each tensor is a whole number of processor vectors, or less than one: no tail rounds in its own way.
EVEN = replace(
    SHAPE, channels=(32, 32, 64), norm_num_groups=16, addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=8 + 6 * 8,
)  # fmt: skip


def plan(name: str) -> LayerPlan:
    """A catalog plan on the tiny teacher."""
    return catalog.find(name).on(SHAPE)


def even_plan(name: str) -> LayerPlan:
    """A catalog plan on a teacher that two processes can halve cleanly."""
    return catalog.find(name).on(EVEN)


class TinyBatches:
    """Random latents and captions, the same for the same id; a batch source of this room's own."""

    def __init__(self, batch: int = 4, seed: int = 0) -> None:
        self.batch, self.seed = batch, seed

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        numbers = [seed_of(self.seed, "pick", step, row) % 16 for row in range(rank, self.batch, world)]
        samples = [self._sample(number) for number in numbers]
        latent, context, pooled = (torch.stack(parts) for parts in zip(*samples, strict=True))
        time_ids = torch.tensor([[64, 64, 0, 0, 64, 64]] * len(numbers), dtype=torch.float32)
        return Batch(latent, context, pooled, time_ids, tuple(f"{n}@{step}" for n in numbers))

    def empty(self) -> Caption:
        return Caption(torch.zeros(5, 12), torch.zeros(8))

    def _sample(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "sample", number))
        return tuple(torch.randn(size, generator=generator) for size in ((4, 8, 8), (5, 12), (8,)))  # type: ignore[return-value]


def shaken(unet: UNet2DConditionModel, seed: int = 1) -> UNet2DConditionModel:
    """The UNet with a little noise on all weights, so that no layer is still at its zero start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in unet.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return unet


def teacher_folder(folder: Path, seed: int = 1, whole: LayerPlan | None = None) -> Path:
    """A random teacher written as a model folder, with one other part to be copied along."""
    whole = whole or plan("mini-sdxl")
    unet = shaken(from_scratch(whole, seed), seed)
    write_model(whole.unet_config(), unet.state_dict(), None, folder, ["test"])
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps({"part": "vae"}))
    return folder


def stage(**changes: object) -> Stage:
    """A short stage; keys as in a recipe."""
    base: dict[str, object] = {
        "name": "one", "plan": "mini-ssd", "start": "scratch", "steps": 4, "batch": 4,
        "learning_rate": 1e-3, "checkpoint_every": 100, "log_every": 1,
    }  # fmt: skip
    return Stage.model_validate(base | changes)


def run(folder: Path, *stages: Stage, **changes: object) -> Run:
    """A run of these stages whose model names are paths."""
    recipe = Recipe.model_validate({"name": "tiny", "stages": [s.model_dump() for s in stages]} | changes)
    find = Providers(plan, Path, lambda recipe, stage: TinyBatches(stage.batch, recipe.seed))
    return Run(recipe, folder, find)
