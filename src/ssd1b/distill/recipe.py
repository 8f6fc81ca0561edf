"""A training run written down: stages, teachers, steps, learning rates, losses, data.

Knows which keys a recipe may have and what they mean. Does not know files (see `recipe_file`), models
or devices; `data:` is handed to the batch source unread.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Scalar = str | bool | int | float | None


class Strict(BaseModel):
    """Refuses unknown keys and silent conversions; never changes after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LossWeights(Strict):
    """Weights of the loss parts. Zero switches a part off; without a teacher only `task` is used."""

    task: Weight = Field(1.0, description="Distance between the student's estimate and the truth.")
    output: Weight = Field(0.5, description="Distance between the two models' estimates.")
    feature: Weight = Field(0.5, description="The tap pairs' feature distances.")
    feature_mode: Literal["faithful", "normalised"] = Field(
        "faithful",
        description="faithful: the plain sum, as published. normalised: each term divided by the mean "
        "square of the teacher's feature, then averaged.",
    )
    feature_level: Literal["sites", "blocks", "self-attention"] = Field(
        "sites",
        description="Which outputs are compared. sites: every residual block and attention site, as "
        "published. blocks: the down, mid and up blocks (BK-SDM). self-attention: that of every kept "
        "transformer block (KOALA).",
    )
    feature_weighting: Literal["uniform", "min-snr", "p2"] = Field(
        "uniform",
        description="Weight of each sample's feature distances by its noise: p2 is 1 / (1 + SNR), most where "
        "the picture is decided; min-snr takes weight only from nearly clean pictures.",
    )
    massive: Weight = Field(
        0.0,
        description="Leave out the teacher's feature values whose magnitude is above so many times the "
        "median of their sample (massive activations); 0 leaves none out.",
    )


class Stage(Strict):
    """One student, one teacher, one stretch of training."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Short name, used in the run folder.")
    plan: str = Field(description="Layer plan of the student: a catalog name or a plan file.")
    start: str = Field(
        description="Where the student's weights come from: 'scratch' (random), 'teacher' (carved from this "
        "stage's teacher), 'previous' (carved from the stage before), 'grown' (the stage before, with the "
        "layers it lacked put in as the identity), or the name or folder of a model."
    )
    teacher: str | None = Field(None, description="Model name, folder or hub id; none means task loss only.")
    steps: Positive = Field(description="Optimizer steps.")
    batch: Positive = Field(32, description="Samples per batch over all ranks.")
    accumulate: Positive = Field(1, description="Batches per optimizer step.")
    learning_rate: Rate = Field(1e-5, description="Peak learning rate of AdamW.")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit keeps AdamW's two moments in one byte per number (arXiv:2110.02861)."
    )
    update: Literal["step", "backward"] = Field(
        "step",
        description="When weights move: after the backward pass, or each within it, so that all gradients "
        "together never take memory; needs 'accumulate: 1' and 'clip: 0'.",
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="Course of the learning rate.")
    warmup: Count = Field(0, description="Steps over which the learning rate rises from zero.")
    final: Share = Field(0.0, description="Share of the peak learning rate left at the end of a cosine.")
    weight_decay: Weight = Field(0.01, description="AdamW weight decay.")
    betas: tuple[float, float] = Field((0.9, 0.999), strict=False, description="AdamW betas.")
    weighting: Literal["uniform", "min-snr", "v"] = Field(
        "uniform", description="Weight of each sample's task and output loss by its signal-to-noise ratio."
    )
    prediction: Literal["epsilon", "v"] | None = Field(
        None,
        description="What the student predicts, noise or velocity; if not given, what the scheduler put "
        "beside it says (see parts). A teacher's is read from its own scheduler.",
    )
    loss: LossWeights = LossWeights()
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Decay of the averaged weights that are saved as the student; 0 saves the last ones."
    )
    clip: Weight = Field(1.0, description="Largest gradient norm; 0 does not clip.")
    caption_dropout: Share = Field(0.0, description="Share of samples trained on the empty caption.")
    noise_offset: Weight = Field(
        0.0,
        description="How far each channel's noise is moved as a whole, so that brightness is learned too.",
    )
    input_perturbation: Weight = Field(
        0.0, description="Strength of extra noise in the input that is not to be predicted."
    )
    trainable: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Train only parameters with one of these words in their name; [] is all.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 runs the models under autocast.")
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp",
        description="What several processes hold: ddp, each the whole student; fsdp2, each a share of it.",
    )
    skip_non_finite: Count = Field(
        0, description="Steps whose loss or gradient is not finite that are skipped before the stage stops."
    )
    compile: bool = Field(False, description="Compile the repeated blocks of both UNets with torch.compile.")
    prefetch: bool = Field(True, description="Prepare the next batch while the step runs; changes no number.")
    checkpoint_every: Positive = Field(500, description="Steps between checkpoints.")
    keep: Positive = Field(2, description="Newest checkpoints kept.")
    milestone_every: Count = Field(0, description="Steps between checkpoints kept for good; 0 is none.")
    log_every: Positive = Field(10, description="Steps between log lines.")
    preview_every: Count = Field(
        0, description="Steps between grids of what teacher and student draw; 0 is none. Changes no weight."
    )
    data: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="Handed to the batch source."
    )

    @model_validator(mode="after")
    def _teacher_is_there_when_needed(self) -> Stage:
        if self.start == "teacher" and self.teacher is None:
            raise ValueError("'start: teacher' needs a teacher to carve from")
        if self.warmup >= self.steps and self.warmup > 0:
            raise ValueError(f"a warm-up of {self.warmup} steps does not fit into {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _taps_are_heard(self) -> Stage:
        if self.compile and self.loss.feature > 0 and self.loss.feature_level == "self-attention":
            raise ValueError(
                "'compile' hides what 'feature_level: self-attention' reads; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _updates_within_the_backward_pass_see_no_sum(self) -> Stage:
        if self.update == "backward" and self.clip > 0.0:
            raise ValueError(
                "'update: backward' cannot clip: the norm of all gradients is known only when all weights "
                "have moved. Set 'clip: 0', or 'update: step'"
            )
        if self.update == "backward" and self.accumulate > 1:
            raise ValueError(
                "'update: backward' moves the weights in every backward pass. Set 'accumulate: 1' and a "
                "larger batch, or 'update: step'"
            )
        if self.parallel == "fsdp2" and (self.update, self.optimizer) != ("step", "adamw"):
            raise ValueError(
                "'parallel: fsdp2' already holds a share of everything and knows 'optimizer: adamw' with "
                "'update: step' only. Leave both keys out, or take 'parallel: ddp'"
            )
        return self

    @property
    def distils(self) -> bool:
        """Whether a teacher takes part in the loss."""
        return self.teacher is not None and (self.loss.output > 0 or self.loss.feature > 0)


class Recipe(Strict):
    """A run: stages in the order they are trained."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the run and its folder.")
    about: str = Field("", description="One line for people.")
    seed: Count = Field(0, description="The only source of randomness.")
    source: str = Field("mini", description="Which batch source feeds the run.")
    parts: str | None = Field(
        None,
        description="Model whose VAE, text encoders, tokenizers and scheduler are put beside the student; "
        "the last stage's teacher if not given.",
    )
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        ("tensorboard",), strict=False, description="Where the log is drawn besides log.jsonl; [] is nowhere."
    )
    preview_prompts: tuple[str, ...] = Field(
        (), strict=False, description="What previews draw; [] is the program's own prompts."
    )
    stages: tuple[Stage, ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _stages_fit_together(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have the same name: {', '.join(names)}")
        if self.stages[0].start in ("previous", "grown"):
            raise ValueError("the first stage cannot start from a previous one")
        if self.parts_model is None and any(stage.preview_every for stage in self.stages):
            raise ValueError("'preview_every' needs 'parts', the model whose VAE and text encoders draw")
        return self

    @property
    def parts_model(self) -> str | None:
        """The model that lends the student everything but the UNet."""
        return self.parts or next((s.teacher for s in reversed(self.stages) if s.teacher), None)
