"""Hyperparameters of the training: network sizes, data and durations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from miniature.training import Plan

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Form:
    """The size of the images of a file, and of their reference images."""

    size: tuple[int, int]
    references: tuple[tuple[int, int], ...] = ()

    @property
    def name(self) -> str:
        return "+".join(f"{width}x{height}" for width, height in (self.size, *self.references))


@dataclass(frozen=True, slots=True)
class Recipe:
    """The miniature as it is bundled; tests make a smaller one. Sizes are (width, height) in pixels."""

    #: Channels of the VAE from the image inwards. Six levels, where FLUX.1 has four: a token is 64x64 pixels.
    levels: tuple[int, ...] = (8, 16, 32, 48, 64, 96)
    #: What the VAE learns from: square parts of drawn images, so many in a step, and the images' short sides.
    part: int = 128
    parts: int = 6
    short_sides: tuple[int, int] = (320, 1024)
    autoencoder: Plan = field(default_factory=lambda: Plan(steps=6_000, rate=1.5e-3, average=0.998))
    decoder: Plan = field(default_factory=lambda: Plan(steps=5_000, rate=1.5e-3, average=0.998))

    heads: int = 6
    head_width: int = 32
    layers: int = 2
    single_layers: int = 3
    t5_width: int = 128
    clip_width: int = 64
    #: Small images cost little: words are learnt on them first. Below 320 the VAE loses the small shapes.
    small: Sizes = ((384, 384),)
    #: The presets of the API: each has places of its own, to be known exactly.
    middle: Sizes = ((512, 512),)
    full: Sizes = ((1024, 768), (768, 1024), (1024, 576), (576, 1024), (1024, 1024))
    #: Files of prepared images for each small, middle and full size.
    files: tuple[int, ...] = (24, 80, 25)
    in_file: int = 128
    #: Sentences in a step of the text encoders.
    sentences: int = 96
    text_encoders: Plan = field(default_factory=lambda: Plan(steps=250, rate=2e-3, warm_up=50, average=0.95))
    #: Tokens of images and prompts in a step of the denoiser; in its first steps fewer, since then steps count.
    first_tokens: int = 1024
    first_steps: int = 6_000
    tokens: int = 2048
    denoiser: Plan = field(
        default_factory=lambda: Plan(steps=30_000, rate=1.5e-3, warm_up=200, cool_down=0.6, average=0.999)
    )

    #: Changes of one image and joinings of two: small ones, and at the sizes that Kontext reads and renders.
    small_edits: tuple[Form, ...] = (
        Form((384, 384), ((384, 384),)),
        Form((448, 320), ((448, 320),)),
        Form((320, 448), ((320, 448),)),
        Form((384, 384), ((384, 384), (384, 384))),
    )
    full_edits: tuple[Form, ...] = (
        Form((1024, 1024), ((1024, 1024),)),
        Form((1216, 896), ((1152, 832),)),
        Form((896, 1216), ((832, 1152),)),
        Form((1024, 1024), ((1024, 1024), (1024, 1024))),
    )
    edit_files: tuple[int, ...] = (6, 1)
    editor: Plan = field(default_factory=lambda: Plan(steps=900, rate=7e-4, average=0.995))

    #: Images in a step of the classifiers.
    shape_examples: int = 32
    #: Files of rendered examples for the checker, and images in each: they take longer than its training.
    rendered_files: int = 24
    rendered_in_file: int = 32
    checker: Plan = field(default_factory=lambda: Plan(steps=3_000, rate=2e-3, average=0.98))
    #: Training further a checker that knows drawn images.
    further_checker: Plan = field(default_factory=lambda: Plan(steps=1_600, rate=1e-3, average=0.98))
    shape_classifier: Plan = field(default_factory=lambda: Plan(steps=300, rate=2e-3, average=0.98))

    @property
    def grid(self) -> int:
        """Side of a token's share of the image in pixels."""
        return int(2 ** len(self.levels))

    def larger(self, times: int) -> Recipe:
        """Return the recipe with so many times the images in each step, for a GPU."""
        return replace(
            self,
            parts=times * self.parts,
            sentences=times * self.sentences,
            first_tokens=times * self.first_tokens,
            tokens=times * self.tokens,
            shape_examples=times * self.shape_examples,
            files=tuple(times * number for number in self.files),
            edit_files=tuple(times * number for number in self.edit_files),
        )

    def without_edits(self) -> Recipe:
        """Return the recipe without an editor: Kontext then uses the denoiser's transformer, and its files say so."""
        return replace(self, edit_files=(0, 0))

    @property
    def has_editor(self) -> bool:
        return any(self.edit_files)

    @property
    def images(self) -> dict[Form, int]:
        """Files of each form that the denoiser trains on, small ones first."""
        groups = zip((self.small, self.middle, self.full), self.files, strict=True)
        return {Form(size): files for sizes, files in groups for size in sizes}

    @property
    def edits(self) -> dict[Form, int]:
        """Files of each form that the editor trains on, small ones first."""
        groups = zip((self.small_edits, self.full_edits), self.edit_files, strict=True)
        return {form: files for forms, files in groups for form in forms}


RECIPE = Recipe()
#: A recipe so small that all of its training fits into a test.
TRIAL = Recipe(
    levels=(8, 16, 16),
    part=32,
    parts=4,
    short_sides=(32, 64),
    autoencoder=Plan(steps=12, rate=2e-3, warm_up=2),
    decoder=Plan(steps=4, rate=2e-3, warm_up=2),
    heads=2,
    head_width=16,
    layers=1,
    single_layers=1,
    t5_width=32,
    clip_width=16,
    small=((32, 32),),
    middle=((40, 32),),
    full=((64, 48),),
    files=(1, 1, 1),
    in_file=8,
    sentences=8,
    text_encoders=Plan(steps=4, rate=1e-3, warm_up=2),
    first_tokens=128,
    first_steps=4,
    tokens=256,
    denoiser=Plan(steps=8, rate=1e-3, warm_up=2),
    small_edits=(Form((32, 32), ((32, 32),)),),
    full_edits=(Form((40, 32), ((32, 32), (32, 40))),),
    edit_files=(1, 1),
    editor=Plan(steps=4, rate=1e-3, warm_up=2),
    shape_examples=4,
    rendered_files=2,
    rendered_in_file=2,
    checker=Plan(steps=3, rate=1e-3, warm_up=1),
    further_checker=Plan(steps=2, rate=1e-3, warm_up=1),
    shape_classifier=Plan(steps=3, rate=1e-3, warm_up=1),
)
