"""Train the two mini CLIP text encoders, contrastively, before any UNet sees them.

In an earlier prototype, tiny text encoders learned jointly with the UNet left the nouns at chance; trained
first against a small picture tower and then frozen, they did not. Only the latter was tried here. Half of
each batch are twins: the same scene with one thing changed, so that order, place, style and background are
learned as exactly as the nouns.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ssd1b.base.seeds import seed_of
from ssd1b.mini.scenes import (
    BUCKETS,
    KINDS,
    NOUNS,
    STYLES,
    Scene,
    caption,
    compose,
    draw,
    grounds,
    held_out,
    training_scene,
)
from ssd1b.mini.train.loop import Parts, Schedule, fit

CONTEXT = 24


def new_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """The two untrained encoders: 64 wide with 3 layers, 128 wide with 4 layers and a projection."""

    def config(width: int, layers: int, act: str) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=CONTEXT,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            hidden_act=act,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )

    return CLIPTextModel(config(64, 3, "quick_gelu")), CLIPTextModelWithProjection(config(128, 4, "gelu"))


def twin(scene: Scene, seed: int, n: int) -> Scene:
    """The same scene with one thing changed: noun, style, background, order or place."""
    rng = random.Random(seed_of(seed, "twin", n))
    nouns, style, ground = [t.noun for t in scene.things], scene.style, scene.background
    bucket, kind = (scene.width_px, scene.height_px), KINDS[2] if len(scene.things) == 2 else KINDS[0]
    change = rng.choice(("noun", "style", "ground", "order"))
    if change == "noun":
        at = rng.randrange(len(nouns))
        kept = nouns[:at] + nouns[at + 1 :]
        nouns[at] = rng.choice([n for n in NOUNS if n not in nouns and not held_out([*kept, n], style)])
    elif change == "style":
        style = rng.choice([s for s in STYLES if not held_out(nouns, s)])
    elif change == "order" and kind == "two":
        nouns.reverse()
    elif change == "order":
        kind = "place" if not scene.place or rng.random() < 0.5 else "one"
    if change != "order" and scene.place:
        kind = "place"
    choices = grounds(tuple(nouns), style)
    if change == "ground" or ground not in choices:
        ground = rng.choice(choices)
    return compose(rng, kind, tuple(nouns), style, ground, bucket)


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures shrunk to 32x32 and the scenes they show; scene `n` and its twin lie side by side."""

    image_N3HW: Tensor
    scenes: tuple[Scene, ...]

    @classmethod
    def draw(cls, seed: int, count: int) -> Pool:
        """Draw `count` scenes, half of them twins of the other half."""
        scenes: list[Scene] = []
        for n in range(count // 2):
            scene = training_scene(seed, n, BUCKETS[0] if n % 2 else BUCKETS[n // 2 % 9])
            scenes += [scene, twin(scene, seed, n)]
        small = [np.asarray(Image.fromarray(draw(s)).resize((32, 32), Image.Resampling.BOX)) for s in scenes]
        image = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous()
        return cls(image, tuple(scenes))


class Pair(nn.Module):
    """Both encoders, a picture tower, and the projections that bring them together."""

    def __init__(self, first: CLIPTextModel, second: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.first_out = nn.Linear(64, 128)
        layers: list[nn.Module] = []
        for i, o in ((3, 32), (32, 64), (64, 128), (128, 160)):
            layers += [nn.Conv2d(i, o, 3, 2, 1), nn.GroupNorm(8, o), nn.SiLU()]
        self.tower = nn.Sequential(*layers, nn.Flatten(), nn.Linear(160 * 4, 128))
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, tokens_BT: Tensor, tokens_2_BT: Tensor, image_B3HW: Tensor, same_BB: Tensor) -> Parts:
        """InfoNCE of each encoder with the pictures; identical captions count as joint positives."""
        picture_BC = F.normalize(self.tower(image_B3HW), dim=-1)
        texts = (
            self.first_out(self.first(tokens_BT).pooler_output),
            self.second(tokens_2_BT).text_embeds,
        )
        target_BB = same_BB / same_BB.sum(1, keepdim=True)
        parts: Parts = {}
        for name, text_BC in zip(("first", "second"), texts, strict=True):
            logits_BB = F.normalize(text_BC, dim=-1) @ picture_BC.T * self.log_scale.clamp(max=4.6).exp()
            both = F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.T, target_BB)
            parts[name] = both / 2
            right = same_BB.gather(1, logits_BB.argmax(1, keepdim=True)) > 0
            parts[f"{name}_top1"] = right.float().mean()
        return {**parts, "loss": parts["first"] + parts["second"]}


def train(
    folder: Path, tokenizers: Path, steps: int = 400, batch: int = 192, seed: int = 2, scenes: int = 8_000
) -> Pair:
    """Train (or resume) both encoders, the returned pair's `.first` and `.second`."""
    torch.manual_seed(seed)
    stack = [CLIPTokenizer.from_pretrained(tokenizers / name) for name in ("tokenizer", "tokenizer_2")]
    pair = Pair(*new_encoders(stack[0]))
    pool = Pool.draw(seed, scenes)

    def loss_at(step: int) -> Parts:
        rng = random.Random(seed_of(seed, "text batch", step))
        twins = rng.sample(range(len(pool.scenes) // 2), batch // 2)
        rows = [row for n in twins for row in (2 * n, 2 * n + 1)]
        says = [caption(pool.scenes[row], seed_of(seed, "words", step, row)) for row in rows]
        tokens = [
            t(says, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids for t in stack
        ]
        same = torch.tensor([[float(a == b) for b in says] for a in says])
        image = pool.image_N3HW[rows].float() / 127.5 - 1
        parts: Parts = pair(*tokens, image, same)
        return parts

    fit("text", pair, loss_at, Schedule(steps, 2e-3), folder)
    return pair
