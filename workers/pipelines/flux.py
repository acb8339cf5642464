"""SRPO text to image: FLUX.1's denoising loop, ours, so that it can stop between steps and leaves nothing behind.

Bit for bit what diffusers' FluxPipeline computes for one image in the same number format.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy
import torch
from PIL import Image

from farm.errors import RenderError
from farm.request import ImageRequest
from workers.pipelines.engine import FluxPipeline, attention_backend, calculate_shift, without_message
from workers.pipelines.pipeline import Painted, Watch

log = logging.getLogger(__name__)

#: Images per forward of encoder, transformer and VAE: the same for every model, size and level. Kernels are chosen by
#: shape, so a picture that is computed in another company may differ in its last bits; alone, it never has company.
#: Larger forwards would gain 4-6 % at 1024x1024, where one image already fills the card.
FORWARD_SIZE = 1
#: Backend of attention, pinned: without it an environment variable of diffusers would decide.
ATTENTION = "native"
#: Tokens that the T5 encoder takes; FLUX.1-dev was trained with up to so many.
MAX_TOKENS = 512
#: Prompts whose embeddings are kept. One is 4 MB at FLUX.1's size.
_PROMPTS_KEPT = 32


@dataclass(frozen=True, slots=True)
class _Text:
    """An encoded prompt: `words` [1, 512, 4096] from T5, `pooled` [1, 768] from CLIP, `positions` [512, 3]."""

    words: torch.Tensor
    pooled: torch.Tensor
    positions: torch.Tensor
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Size:
    """Height and width in pixels, both multiples of the grid: one token's share of the picture."""

    height: int
    width: int
    grid: int

    @property
    def rows(self) -> int:
        return self.height // self.grid

    @property
    def columns(self) -> int:
        return self.width // self.grid


class FluxSrpoPipeline:
    """The `Pipeline` of the model `srpo`, on any weights of FLUX.1-dev's architecture."""

    def __init__(self, parts: FluxPipeline, weights: str, build: str) -> None:
        """`parts`: a loaded FluxPipeline, of which only the parts are used, never its call or its state."""
        self._parts = parts
        self._weights = weights
        self._build = build
        self._encode = lru_cache(maxsize=_PROMPTS_KEPT)(self._encode_anew)

    @property
    def models(self) -> tuple[str, ...]:
        return ("srpo",)

    @property
    def weights(self) -> str:
        return self._weights

    @property
    def build(self) -> str:
        return self._build

    def warm_up(self) -> None:
        request = ImageRequest("srpo", "warm up", width=256, height=256, steps=1, guidance=4.5, seed=0)
        for _ in self.render([request], lambda *_: True):
            pass

    def render(self, images: Sequence[ImageRequest], watch: Watch) -> Iterator[Painted]:
        """One image after the other; see `Pipeline.render` and `FORWARD_SIZE`."""
        for request in images:
            self._refuse_unknown(request)
        return self._paint_each(images, watch)

    def _refuse_unknown(self, request: ImageRequest) -> None:
        if request.model not in self.models:
            raise RenderError(f'These weights serve {", ".join(self.models)}, not "{request.model}".')
        if request.acceleration != "none":
            raise RenderError(f'The acceleration "{request.acceleration}" does not work yet; "none" does.')

    def _paint_each(self, images: Sequence[ImageRequest], watch: Watch) -> Iterator[Painted]:
        for index, request in enumerate(images):
            painted = self._paint(index, request, watch)
            if painted is not None:
                yield painted

    def _paint(self, index: int, request: ImageRequest, watch: Watch) -> Painted | None:
        # Both modes belong to this call, not to the generator: what runs between two images must not be in them.
        with torch.inference_mode(), attention_backend(ATTENTION):
            text = self._encode(request.prompt)
            if not watch(index, 0):
                return None
            size = self._size(request)
            latents = self._denoise(request, text, size, partial(watch, index))
            if latents is None:
                return None
            for warning in text.warnings:
                log.warning(warning)
            return Painted(index, _crop(self._decode(latents, size), request), text.warnings)

    def _encode_anew(self, prompt: str) -> _Text:
        # CLIP's limit of 77 tokens is part of FLUX: CLIP sets the tone, T5 reads the prompt. For the limit of T5 there
        # is a warning of our own. The libraries' repeat the prompt, which is not for logs, and foresee errors in vain.
        with (
            without_message("diffusers.pipelines.flux.pipeline_flux", "part of your input was truncated"),
            without_message("transformers.tokenization_utils_base", "Token indices sequence length"),
        ):
            words, pooled, positions = self._parts.encode_prompt(prompt, max_sequence_length=MAX_TOKENS)
        return _Text(words, pooled, positions, self._warnings(prompt))

    def _warnings(self, prompt: str) -> tuple[str, ...]:
        tokens = len(self._parts.tokenizer_2(prompt, verbose=False)["input_ids"])
        if tokens <= MAX_TOKENS:
            return ()
        return (f"The prompt has {tokens} tokens; what comes after the first {MAX_TOKENS} had no effect.",)

    def _size(self, request: ImageRequest) -> _Size:
        """The smallest size on the grid that holds the picture. A token is 2x2 latent pixels."""
        grid = 2 * int(self._parts.vae_scale_factor)
        return _Size(_round_up(request.height, grid), _round_up(request.width, grid), grid)

    def _noise(self, seed: int, size: _Size) -> torch.Tensor:
        """Packed latents of pure noise [1, tokens, 4 x channels]: drawn in fp32 on the CPU, equal on every device."""
        channels = self._parts.transformer.config.in_channels // 4
        generator = torch.Generator("cpu").manual_seed(seed)
        shape = (FORWARD_SIZE, channels, 2 * size.rows, 2 * size.columns)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        return _pack(noise.to(self._parts.device, self._parts.transformer.dtype))

    def _denoise(
        self, request: ImageRequest, text: _Text, size: _Size, go_on: Callable[[int], bool]
    ) -> torch.Tensor | None:
        """The latents after the last step; None as soon as `go_on`, asked after each one, says no."""
        transformer, device = self._parts.transformer, self._parts.device
        latents = self._noise(request.seed, size)
        sigmas, timesteps = self._schedule(request.steps, tokens=size.rows * size.columns)
        positions = _positions(size).to(device, latents.dtype)
        guidance = torch.full([FORWARD_SIZE], request.guidance, dtype=torch.float32, device=device)
        for step in range(request.steps):
            velocity = transformer(
                hidden_states=latents,
                # Rounded to the latents' format before the division, as in the loop that made the weights.
                timestep=timesteps[step].expand(FORWARD_SIZE).to(latents.dtype) / 1000,
                guidance=guidance if transformer.config.guidance_embeds else None,
                pooled_projections=text.pooled,
                encoder_hidden_states=text.words,
                txt_ids=text.positions,
                img_ids=positions,
                return_dict=False,
            )[0]
            latents = _euler(latents, velocity, sigmas[step + 1] - sigmas[step])
            _wait_for(device)
            if not go_on(step + 1):
                return None
        return latents

    def _schedule(self, steps: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise levels [steps + 1] and times [steps], from a scheduler of our own: the shared one counts its steps."""
        config = self._parts.scheduler.config
        scheduler = type(self._parts.scheduler).from_config(config)
        mu = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps), device=self._parts.device, mu=mu)
        return scheduler.sigmas, scheduler.timesteps

    def _decode(self, latents: torch.Tensor, size: _Size) -> Image.Image:
        vae = self._parts.vae
        unpacked = _unpack(latents, size) / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(unpacked, return_dict=False)[0]
        if not torch.isfinite(pixels).all():
            raise RenderError("The network computed values that are no colours (not a number, or infinite).")
        picture: Image.Image = self._parts.image_processor.postprocess(pixels, output_type="pil")[0]
        return picture


def _pack(latents: torch.Tensor) -> torch.Tensor:
    """[1, channels, 2 x rows, 2 x columns] to tokens [1, rows x columns, 4 x channels]: 2x2 latent pixels each."""
    _, channels, height, width = latents.shape
    patches = latents.view(FORWARD_SIZE, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(FORWARD_SIZE, (height // 2) * (width // 2), channels * 4)


def _unpack(latents: torch.Tensor, size: _Size) -> torch.Tensor:
    """The way back from `_pack`."""
    channels = latents.shape[2] // 4
    patches = latents.view(FORWARD_SIZE, size.rows, size.columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(FORWARD_SIZE, channels, 2 * size.rows, 2 * size.columns)


def _positions(size: _Size) -> torch.Tensor:
    """Where each token is [tokens, 3]: 0, row, column. Those of the text are all zeros."""
    rows, columns = torch.meshgrid(torch.arange(size.rows), torch.arange(size.columns), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)


def _euler(latents: torch.Tensor, velocity: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """One step along the velocity, added up in fp32 and rounded to the network's format."""
    return (latents.to(torch.float32) + change * velocity).to(velocity.dtype)


def _wait_for(device: torch.device) -> None:
    """Wait until the step is done: CUDA only queues it, and progress and cancel would run ahead of the picture."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _round_up(length: int, grid: int) -> int:
    return -(-length // grid) * grid


def _crop(picture: Image.Image, request: ImageRequest) -> Image.Image:
    """The middle of the picture, of the size asked for."""
    left, top = (picture.width - request.width) // 2, (picture.height - request.height) // 2
    return picture.crop((left, top, left + request.width, top + request.height))
