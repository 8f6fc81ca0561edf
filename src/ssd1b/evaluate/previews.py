"""Preview grids: what teacher and student draw for the same prompts, teacher left, student right.

Wires the UNets that are being trained to the pipeline of `generate`. Every process draws its share of the
prompts; the first one lays all of them out. Does not know when it is time.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import ReferenceType, ref

import torch
from PIL import Image, ImageDraw, ImageFont

from ssd1b.base.files import write_atomic
from ssd1b.base.seeds import seed_of
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.generate import pipeline
from ssd1b.generate.engines.torch import TorchAutoencoder, TorchDenoiser
from ssd1b.generate.model import MINIATURE_BELOW, KnownText, Model, defaults_of
from ssd1b.generate.request import Request, request_of
from ssd1b.generate.sheet import contact_sheet
from ssd1b.models.device import Placement
from ssd1b.models.encoders import load_text, load_vae
from ssd1b.models.schedule import prediction_type
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor, nn

    from ssd1b.distill.journal import Watcher
    from ssd1b.distill.ranks import Ranks
    from ssd1b.distill.step import Objective
    from ssd1b.generate.engines import Conditioning
    from ssd1b.models.encoders import TextStack
    from ssd1b.plan.shape import UNetShape

SIDE_PX, N_PHOTOS = 512, 4
HEAD_PX = 22


@dataclass
class Grids:
    """Draws into a run's folder previews/, one PNG a time, and tells the watcher.

    Attributes:
        parts: the folder whose VAE, text encoders and scheduler are used; read at the first picture.
        folder: the run's.
        prompts: at least one; the same ones every time, each from a noise of its own.
        ranks: the processes that share the work.
        device: where the UNets live.
        watcher: hears of every grid that is written.
    """

    parts: Path
    folder: Path
    prompts: Sequence[str]
    ranks: Ranks
    device: torch.device
    watcher: Watcher
    _lent: Model | None = None
    _taught: ReferenceType[nn.Module] | None = None
    _lesson: list[bytes] = field(default_factory=list)

    def draw(self, student: nn.Module, objective: Objective, total: int) -> None:
        """Draw this process's share, gather all, and write the grid; see `distill.previews`."""
        with self.ranks.together():
            theirs = self._of_teacher(objective)
            ours = self._pictures(student, objective.prediction)
        drawn = self.ranks.gather((theirs, ours))
        with self.ranks.together():
            if self.ranks.leads:
                path = self.folder / "previews" / f"{total:06d}.png"
                write_atomic(path, _png(self._grid(drawn, total)))
                self.watcher.pictured(path, total)

    @property
    def _turns(self) -> int:
        """Pictures of each process: as many on all, since a student in shares is called by all at once."""
        return -(-len(self.prompts) // self.ranks.world)

    def _of_teacher(self, objective: Objective) -> list[bytes]:
        """The teacher's share of the pictures, drawn once and kept as long as it teaches."""
        if objective.teacher is None:
            return []
        if self._taught is None or self._taught() is not objective.teacher:
            self._lesson = self._pictures(objective.teacher, objective.teacher_prediction)
            self._taught = ref(objective.teacher)
        return self._lesson

    def _pictures(self, unet: nn.Module, prediction: str) -> list[bytes]:
        model = self._model(unet, prediction)
        pictures = []
        for turn in range(self._turns):
            prompt = self.prompts[(self.ranks.rank + turn * self.ranks.world) % len(self.prompts)]
            (picture,) = pipeline.sample(model, [request_for(model, prompt)])
            picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
            pictures.append(_png(picture))
        return pictures

    def _model(self, unet: nn.Module, prediction: str) -> Model:
        """The lent parts around a UNet that is being trained."""
        live = cast("UNet2DConditionModel", unet)
        shape = shape_of(dict(live.config))
        if self._lent is None:
            self._lent = _lent(self.parts, self.prompts, self.device, live)
        config = {**self._lent.scheduler_config, "prediction_type": prediction_type(prediction)}
        return replace(
            self._lent,
            denoiser=Live(TorchDenoiser(live, at_once=2)),
            scheduler_config=config,
            shape=shape,
            defaults=defaults_of(shape, config),
        )

    def _grid(self, drawn: Sequence[tuple[list[bytes], list[bytes]]], total: int) -> Image.Image:
        """All pictures in the order of the prompts, under a line that says what is where."""
        tiles: list[Image.Image] = []
        for number in range(len(self.prompts)):
            turn, rank = divmod(number, self.ranks.world)
            tiles += [Image.open(io.BytesIO(side[turn])) for side in drawn[rank] if side]
        columns = len(tiles) // len(self.prompts)
        sheet = contact_sheet(tiles, columns)
        said = "teacher | student" if columns == 2 else "student"
        grid = Image.new("RGB", (sheet.width, sheet.height + HEAD_PX), "white")
        grid.paste(sheet, (0, HEAD_PX))
        pen = ImageDraw.Draw(grid)
        pen.text((4, 4), f"{said}, step {total}", "#1f2733", ImageFont.load_default(12))
        return grid


@dataclass(frozen=True, slots=True)
class Live:
    """A denoiser around a UNet in training.

    Outside of inference mode: what that gathers of a student in shares could not be trained any more.
    """

    inner: TorchDenoiser

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Run the UNet once, without gradients."""
        with torch.inference_mode(False), torch.no_grad():
            return self.inner.predict_noise(latent_BCHW, step_B, cond)


class _Gone:
    """A text encoder that has done its work and takes no memory."""

    def hidden(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("every prompt of a preview is encoded before the first picture")


def _lent(parts: Path, prompts: Sequence[str], device: torch.device, unet: UNet2DConditionModel) -> Model:
    """The parts of a model beside its UNet, and the prompts, encoded once, beside the device."""
    text = load_text(parts, device=torch.device("cpu"), dtype=torch.float32)
    known = KnownText(most=len(prompts) + 1)
    for prompt in ("", *prompts):
        known.of(prompt, "plain", text)
    config: Mapping[str, object] = read_json(parts / "scheduler" / "scheduler_config.json")
    shape = shape_of(dict(unet.config))
    spent: TextStack = replace(text, encoders=(_Gone(), _Gone()))
    return Model(
        name="preview",
        folder=None,
        denoiser=TorchDenoiser(unet),
        vae=TorchAutoencoder(load_vae(parts, device=device, dtype=torch.float32)),
        text=spent,
        scheduler_config=config,
        shape=shape,
        defaults=defaults_of(shape, config),
        placement=Placement(device, torch.float32, "where the UNet is trained"),
        zero_negative=bool(read_json(parts / "model_index.json").get("force_zeros_for_empty_prompt", True)),
        known_text=known,
    )


def own_prompts(shape: UNetShape) -> tuple[str, ...]:
    """What is drawn where a recipe says nothing: one prompt of each kind of scene, or some photographs."""
    from ssd1b.evaluate.prompts import KINDS, prompts
    from ssd1b.evaluate.showcase import PHOTOS

    if shape.sample_size < MINIATURE_BELOW:
        return tuple(prompt.text for prompt in prompts(len(KINDS)))
    return PHOTOS[:N_PHOTOS]


def request_for(model: Model, prompt: str) -> Request:
    """One picture of a prompt, as its model is best asked, from a noise that is the prompt's own."""
    asked = model.defaults
    return request_of(
        {
            "prompt": prompt,
            "width": asked.width,
            "height": asked.height,
            "steps": asked.steps,
            "guidance": asked.guidance,
            "scheduler": asked.scheduler,
            "seed": seed_of(0, "preview", prompt),
            "syntax": "plain",
        }
    )


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
