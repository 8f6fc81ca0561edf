"""Whole runs on tiny models: stopping, resuming, stages, and the folder they leave."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.distill import tiny

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError, RecipeError
from ssd1b.base.files import sha256_file
from ssd1b.distill import checkpoint, journal
from ssd1b.distill.journal import Silent
from ssd1b.distill.losses import LossParts
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.stages import Run, carry_out, is_done, snapshot
from ssd1b.distill.step import Objective, predict_noise
from ssd1b.distill.student import from_scratch, grown
from ssd1b.distill.trainer import NonFiniteLossError, Stopping, Trainer
from ssd1b.models.folder import load_unet
from ssd1b.plan import catalog

UNET = "unet/diffusion_pytorch_model.safetensors"


class StopAfter(Silent):
    """A watcher that asks for a stop during a step."""

    def __init__(self, stopping: Stopping, step: int) -> None:
        self.stopping, self.step = stopping, step

    def stepped(self, stage: str, step: int) -> None:
        if step == self.step:
            self.stopping.ask()


def stopped(run: Run, step: int) -> bool:
    """Start a run that is asked to stop once `step` steps are done; the next step is its last."""
    stopping = Stopping()
    return carry_out(replace(run, stopping=stopping, watcher=StopAfter(stopping, step)))


def weights(folder: Path) -> bytes:
    return (folder / UNET).read_bytes()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.teacher_folder(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Run:
    """Two stages with a teacher, average, dropout and accumulation, run through without a stop."""
    run = tiny.run(tmp_path_factory.mktemp("whole") / "run", *stages(teacher))
    assert carry_out(run)
    return run


def stages(teacher: Path) -> tuple[object, ...]:
    shared = {"teacher": str(teacher), "ema": 0.9, "caption_dropout": 0.3, "weighting": "v", "batch": 2}
    return (
        tiny.stage(name="middle", plan="mini-ssd-mid", start="teacher", steps=2, **shared),
        tiny.stage(name="blocks", start="previous", steps=3, accumulate=2, **shared),
    )


def moments(run: Run) -> list[dict[str, object]]:
    return [line for line in journal.read(run.folder / "log.jsonl") if "losses" in line]


def test_a_run_that_was_stopped_ends_bit_identical_to_one_that_was_not(whole: Run, tmp_path: Path) -> None:
    run = replace(whole, folder=tmp_path / "run")
    assert not stopped(run, 1)  # asked in the first stage, which it finishes; one step into the second
    assert carry_out(run)
    assert weights(run.student) == weights(whole.student)
    ours, theirs = moments(run), moments(whole)
    assert [m["losses"] for m in ours] == [m["losses"] for m in theirs]
    assert [m["total"] for m in ours] == [1, 2, 3, 4, 5]


def test_every_one_of_the_26_terms_is_in_the_log(whole: Run) -> None:
    for moment in moments(whole):
        losses = moment["losses"]
        assert isinstance(losses, dict)
        terms = [name for name in losses if name.startswith("feature/")]
        assert len(terms) == 26
        assert losses["feature"] == pytest.approx(sum(losses[term] for term in terms), rel=1e-4)
        expected = losses["task"] + 0.5 * losses["output"] + 0.5 * losses["feature"]
        assert losses["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_run_folder_says_what_it_is(whole: Run) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {"recipe.json", "log.jsonl", "steps", "stages", "student", "losses.svg"}
    manifest = json.loads((whole.student / "manifest.json").read_text())
    assert manifest["run"] == "tiny" and manifest["plan"] == "mini-ssd"
    assert (whole.student / "vae" / "config.json").is_file(), "the teacher's other parts come along"
    assert (whole.student / "losses.svg").is_file()
    assert "| blocks |" in (whole.student / "README.md").read_text(), "its card"


def test_stock_diffusers_loads_the_student(whole: Run) -> None:
    unet = load_unet(whole.student, device=torch.device("cpu"), dtype=torch.float32)
    assert dict(unet.config)["mid_block_type"] == "UNetMidBlock2D"
    assert set(unet.state_dict()) == set(load_file(whole.student / UNET))


def test_the_teachers_folder_is_untouched(whole: Run, tmp_path: Path) -> None:
    again = tiny.teacher_folder(tmp_path / "again")
    assert weights(Path(str(whole.recipe.stages[0].teacher))) == weights(again)


def test_the_same_command_again_says_that_it_is_done(whole: Run) -> None:
    before = (whole.folder / "log.jsonl").read_text()
    assert is_done(whole) and carry_out(whole)
    assert (whole.folder / "log.jsonl").read_text() == before


def test_another_recipe_in_the_same_folder_is_refused_unless_accepted(whole: Run) -> None:
    hotter = tuple(s.model_copy(update={"learning_rate": 0.5}) for s in whole.recipe.stages)
    other = replace(whole, recipe=whole.recipe.model_copy(update={"stages": hotter}))
    with pytest.raises(RecipeError, match=r"learning_rate: 0\.001 there, 0\.5 here"):
        carry_out(other)
    rarer = tuple(s.model_copy(update={"checkpoint_every": 7}) for s in whole.recipe.stages)
    assert carry_out(replace(whole, recipe=whole.recipe.model_copy(update={"stages": rarer})))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(teacher: Path, tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(steps=4, checkpoint_every=1, batch=2))
    straight = tiny.run(tmp_path / "straight", tiny.stage(steps=4, batch=2))
    carry_out(straight)
    assert not stopped(run, 2)
    [newest] = (run.folder / "steps" / "00000003" / "exp_avg").iterdir()
    newest.write_bytes(newest.read_bytes()[:-100])
    said: list[str] = []
    watcher = Silent()
    watcher.said = said.append  # type: ignore[method-assign]
    assert carry_out(replace(run, watcher=watcher))
    assert any(f"{newest} is missing or damaged" in sentence for sentence in said)
    assert weights(run.student) == weights(straight.student)


def test_only_damaged_checkpoints_stop_the_run_with_a_name(tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(batch=2))
    assert not stopped(run, 1)
    (run.folder / "steps" / "00000002" / "checkpoint.json").unlink()
    with pytest.raises(DamagedFileError, match="00000002"):
        carry_out(run)


def test_older_checkpoints_go_only_as_far_as_asked(tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(steps=4, checkpoint_every=1, keep=3, batch=2))
    carry_out(run)
    assert sorted(p.name for p in (run.folder / "steps").iterdir()) == ["00000002", "00000003", "00000004"]


def test_milestones_stay(tmp_path: Path) -> None:
    one = tiny.stage(steps=5, checkpoint_every=3, milestone_every=2, keep=1, batch=2)
    run = tiny.run(tmp_path / "run", one)
    carry_out(run)
    assert sorted(p.name for p in (run.folder / "steps").iterdir()) == ["00000002", "00000004", "00000005"]


def test_a_checkpoint_of_version_0_1_is_gone_on_from(tmp_path: Path) -> None:
    """One file per group, no count of skipped steps."""
    run = tiny.run(tmp_path / "run", tiny.stage(batch=2, ema=0.9))
    straight = replace(run, folder=tmp_path / "straight")
    assert carry_out(straight) and not stopped(run, 1)
    path = run.folder / "steps" / "00000002"
    saved, files = checkpoint.opened(path), {}
    for group, tensors in {group: saved.read(group) for group in saved.groups}.items():
        shutil.rmtree(path / group)
        save_file(tensors, path / f"{group}.safetensors")
        files[f"{group}.safetensors"] = sha256_file(path / f"{group}.safetensors")
    facts = {"stage": 0, "step": 2, "total": 2, "files": files}
    (path / "checkpoint.json").write_text(json.dumps(facts))
    assert carry_out(run)
    assert weights(run.student) == weights(straight.student)


def test_a_checkpoint_of_another_student_is_refused_with_the_tensor(tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(batch=2))
    assert not stopped(run, 1)
    deeper = tiny.run(run.folder, tiny.stage(batch=2, plan="mini-sdxl"))
    with pytest.raises(LayoutError, match=r"is of another student: '\S+' is absent there and [\d×]+ in this"):
        carry_out(deeper, accept_changes=True)


def test_an_average_asked_for_later_begins_at_the_weights_of_then(tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(batch=2, steps=3))
    assert not stopped(run, 1)
    then = checkpoint.opened(run.folder / "steps" / "00000002").read("weights")
    averaged = tiny.run(run.folder, tiny.stage(batch=2, steps=3, ema=0.9))
    assert carry_out(averaged, accept_changes=True)
    last = checkpoint.opened(run.folder / "steps" / "00000003")
    expected = {name: torch.lerp(then[name], now, 1 - 4 / 13) for name, now in last.read("weights").items()}
    for name, value in last.read("average").items():
        torch.testing.assert_close(value, expected[name])


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(steps=3, checkpoint_every=1, batch=2))
    assert not stopped(run, 1)
    before, _ = checkpoint.newest(run.folder / "steps", Ranks())
    bad = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr("ssd1b.distill.trainer.losses", lambda *_: LossParts(task=bad))
    with pytest.raises(NonFiniteLossError, match="step 3: loss, task not finite"):
        carry_out(run)
    after, _ = checkpoint.newest(run.folder / "steps", Ranks())
    assert before is not None and before == after
    event = journal.read(run.folder / "log.jsonl")[-1]
    assert event["event"] == "non-finite loss" and len(event["ids"]) == 2  # type: ignore[arg-type]


def test_only_the_named_layers_move(teacher: Path, tmp_path: Path) -> None:
    stage = tiny.stage(plan="mini-sdxl", start=str(teacher), trainable=["attn2"], steps=2, batch=2, ema=0.5)
    run = tiny.run(tmp_path / "run", stage, parts=str(teacher))
    carry_out(run)
    before, after = load_file(teacher / UNET), load_file(run.student / UNET)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("attn2" in name for name in moved)


def test_a_plan_that_keeps_what_the_stage_before_removed_is_refused(teacher: Path, tmp_path: Path) -> None:
    first = tiny.stage(plan="mini-ssd", start="teacher", teacher=str(teacher), steps=1, batch=1)
    then = tiny.stage(name="two", plan="mini-ssd-mid", start="previous", steps=1, batch=1)
    with pytest.raises(RecipeError, match="order in which the plans nest"):
        carry_out(tiny.run(tmp_path / "run", first, then))


def test_a_shallow_student_grows_deep_and_draws_the_same_at_first() -> None:
    shallow, deep = tiny.plan("mini-vega"), tiny.plan("mini-sdxl")
    small = tiny.shaken(from_scratch(shallow, seed=1))
    big = grown(deep, shallow, small.state_dict(), seed=2)
    batch = tiny.TinyBatches().batch_at(0)
    with torch.inference_mode():
        estimates = [predict_noise(unet, batch.latent_BCHW, torch.tensor(5), batch) for unet in (small, big)]
    assert torch.equal(*estimates) and estimates[0].abs().mean() > 0.01
    for plan, before in ((shallow, deep), (deep, catalog.find("mini-vega"))):
        with pytest.raises(RecipeError, match="cannot be grown"):
            grown(plan, before, {}, seed=2)


def test_a_stage_grows_what_the_stage_before_trained(tmp_path: Path) -> None:
    first = tiny.stage(name="one", plan="mini-vega", steps=2, batch=2)
    then = tiny.stage(name="two", plan="mini-sdxl", start="grown", steps=1, batch=2, learning_rate=1e-9)
    run = tiny.run(tmp_path / "run", first, then)
    carry_out(run)
    before, after = load_file(run.stage_folder(0) / UNET), load_file(run.student / UNET)
    shallow = tiny.plan("mini-vega")
    for name, value in before.items():
        assert torch.allclose(after[shallow.teacher_key(name)], value, atol=1e-6)
    assert len(after) > len(before)


def test_a_snapshot_is_a_model_folder_of_the_newest_checkpoint(tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(steps=3, batch=2, ema=0.9))
    with pytest.raises(MissingFileError, match="no checkpoint yet"):
        snapshot(run, tmp_path / "early")
    assert not stopped(run, 1)
    assert snapshot(run, tmp_path / "half") == 2
    saved = checkpoint.opened(run.folder / "steps" / "00000002")
    written = load_file(tmp_path / "half" / UNET)
    assert all(torch.equal(written[name], value) for name, value in saved.read("average").items())


def test_the_teacher_is_in_its_own_numbers_and_in_no_optimizer_or_checkpoint(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Objective, dict[str, torch.nn.Parameter]]] = []
    plain = Trainer.run

    def noting(self: Trainer, *given: int) -> bool:
        seen.append((self.objective, self.parameters))
        return plain(self, *given)

    monkeypatch.setattr(Trainer, "run", noting)
    stage = tiny.stage(start="teacher", teacher=str(teacher), precision="bf16", steps=1, batch=1)
    run = tiny.run(tmp_path / "run", stage)
    carry_out(run)
    ((objective, trained),) = seen
    assert objective.teacher is not None
    its = list(objective.teacher.parameters())
    assert {each.dtype for each in its} == {torch.bfloat16} and not any(each.requires_grad for each in its)
    assert {each.dtype for each in trained.values()} == {torch.float32}
    assert not {each.data_ptr() for each in its} & {each.data_ptr() for each in trained.values()}
    saved, _ = checkpoint.newest(run.folder / "steps", Ranks())
    names = set(load_unet(run.student, device=torch.device("cpu"), dtype=torch.float32).state_dict())
    assert saved is not None and all(saved.read(group).keys() <= names for group in saved.groups)
    assert len(names) < len(its), "the teacher has layers that no checkpoint knows"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself, and looks at .grad of everything
def test_compiled_blocks_give_the_losses_of_plain_ones(teacher: Path, tmp_path: Path) -> None:
    shared = {"start": "teacher", "teacher": str(teacher), "steps": 2, "batch": 1}
    plain = tiny.run(tmp_path / "plain", tiny.stage(**shared))
    compiled = tiny.run(tmp_path / "compiled", tiny.stage(compile=True, **shared))
    assert carry_out(plain) and carry_out(compiled)
    assert load_file(compiled.student / UNET).keys() == load_file(plain.student / UNET).keys()
    for ours, theirs in zip(moments(compiled), moments(plain), strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-3)
