"""The trainers of the frozen parts: they learn, and they resume exactly."""

from __future__ import annotations

import contextlib
import json

import torch

from ssd1b.mini import embedded
from ssd1b.mini.scenes import BUCKETS, held_out, training_scene
from ssd1b.mini.train import parts, reader, text, tiny, vae
from ssd1b.mini.train.loop import Schedule, fit


def _line(folder) -> torch.nn.Linear:
    torch.manual_seed(0)
    line = torch.nn.Linear(3, 1)

    def loss_at(step: int):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return {"loss": (line(x) - x.sum(1, keepdim=True)).square().mean()}

    fit("line", line, loss_at, Schedule(60, 0.05, save_every=20), folder)
    return line


def test_an_interrupted_training_ends_in_the_same_weights(tmp_path) -> None:
    whole = _line(tmp_path / "whole")
    torch.manual_seed(0)
    broken = torch.nn.Linear(3, 1)

    def fails_at_47(step: int):
        if step == 47:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return {"loss": (broken(x) - x.sum(1, keepdim=True)).square().mean()}

    with contextlib.suppress(KeyboardInterrupt):
        fit("line", broken, fails_at_47, Schedule(60, 0.05, save_every=20), tmp_path / "broken")
    assert torch.equal(whole.weight, _line(tmp_path / "broken").weight)


def test_the_log_is_one_json_object_a_line(tmp_path) -> None:
    _line(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60] and rows[-1]["loss"] < rows[0]["loss"]


def test_every_part_takes_a_step(tmp_path) -> None:
    made = vae.train(tmp_path / "vae", steps=2, batch=2)
    assert 0 < made.config.scaling_factor < 1e3
    small = tiny.train(tmp_path / "tiny", made.eval(), steps=1)
    assert small.config.latent_channels == made.config.latent_channels
    parts.begin(tmp_path / "parts")
    pair = text.train(tmp_path / "text", tmp_path / "parts", steps=1, batch=8, scenes=32)
    assert pair.first.config.hidden_size + pair.second.config.hidden_size == 192
    net = reader.train(tmp_path / "reader", steps=1, batch=2)
    assert set(net.accuracy) == {"object", "style", "background", "position", "scenes"}


def test_a_twin_differs_in_one_thing_and_is_never_held_out() -> None:
    for n in range(1500):
        scene = training_scene(1, n, BUCKETS[0])
        twin = text.twin(scene, 1, n)
        changes = [
            sorted(t.noun for t in scene.things) != sorted(t.noun for t in twin.things),
            scene.style != twin.style,
        ]
        assert sum(changes) <= 1
        assert not held_out([thing.noun for thing in twin.things], twin.style)


def test_the_shipped_vae_gives_pictures_back() -> None:
    from ssd1b.models.encoders import decode_latents, encode_pixels, load_vae

    model = load_vae(embedded.folder(embedded.PARTS), device=torch.device("cpu"), dtype=torch.float32)
    image = vae.pictures(77, 0, 24, BUCKETS[0])
    again = decode_latents(model, encode_pixels(model, image))
    mse = (again - (image / 2 + 0.5)).square().mean(dim=(1, 2, 3))
    assert float((-10 * mse.log10()).mean()) > 26


def test_the_shipped_tiny_decoder_stands_in_for_the_vae() -> None:
    from ssd1b.generate.engines.torch import TinyAutoencoder
    from ssd1b.models.encoders import decode_latents, encode_pixels, load_tiny_vae, load_vae

    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    model = load_vae(embedded.folder(embedded.PARTS), **where)
    small = TinyAutoencoder(load_tiny_vae(embedded.folder("mini-tiny"), **where))
    image = vae.pictures(77, 0, 24, BUCKETS[0])
    latent = encode_pixels(model, image)
    gap = small.decode(latent) - decode_latents(model, latent)
    assert float((-10 * gap.square().mean(dim=(1, 2, 3)).log10()).mean()) > 24
    away = (small.encode(image) - latent).square().mean() / latent.square().mean()
    assert float(away) < 0.1
