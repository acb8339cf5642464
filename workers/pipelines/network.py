"""A FLUX.1 network: text encoders, transformer and VAE of one set of weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy
import torch
from PIL import Image

from farm.domain.errors import RenderError
from workers.pipelines.engine import FluxPipeline, calculate_shift, without_message
from workers.pipelines.latents import Size, unpack
from workers.pipelines.lean_transformer import use_lean_forward
from workers.pipelines.lean_vae import use_lean_vae

#: Tokens that the T5 encoder takes at most; FLUX.1-dev was trained with up to so many.
MAX_TOKENS = 512
#: Prompts whose embeddings are kept. One is 4 MB at FLUX.1's size.
_PROMPTS_KEPT = 32
#: Sigma schedules that are kept: making one takes as long as a few of the miniature's layers.
_SCHEDULES_KEPT = 64
#: A tokenizer keeps between calls how it pads and cuts; networks share tokenizers, and several threads encode prompts.
_ONE_TOKENIZES = threading.Lock()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt embeddings: `words` [1, 512, 4096] from T5, `pooled` [1, 768] from CLIP, and `positions` [512, 3].

    The sizes are FLUX.1's; the miniature's are smaller.
    """

    words: torch.Tensor
    pooled: torch.Tensor
    positions: torch.Tensor
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Sigma schedule: noise levels from 1 to 0, `sigmas` [steps + 1], and the transformer's `timesteps` [steps]."""

    sigmas: torch.Tensor
    timesteps: torch.Tensor

    def after(self, steps: int) -> Schedule:
        """Return the schedule without its first `steps` steps."""
        return Schedule(self.sigmas[steps:], self.timesteps[steps:])


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """The inputs of one image to a forward of the transformer.

    `tokens` [1, n, 4 x channels] at `token_positions` [n, 3]; `time`, a timestep; the prompt's embeddings; `guidance`.
    """

    tokens: torch.Tensor
    token_positions: torch.Tensor
    time: torch.Tensor
    prompt: Prompt
    guidance: float


class Network:
    """Text encoders, transformer and VAE. Embeddings of recent prompts are cached, and no other state is kept."""

    def __init__(self, parts: FluxPipeline, fp8_copy: Any = None) -> None:
        """Use the parts of a loaded FluxPipeline, never its call or its state. `fp8_copy`: of its transformer."""
        self._parts = parts
        self._fp8_copy = fp8_copy
        # Asked of the parts, they are looked up among all modules each time.
        self.device: torch.device = parts.device
        self._number_format: torch.dtype = parts.transformer.dtype
        use_lean_forward(parts.transformer)
        use_lean_vae(parts.vae)
        self.prompt = lru_cache(maxsize=_PROMPTS_KEPT)(self._encode_prompt)
        #: The sigma schedule of so many steps for an image of so many tokens.
        self._schedule = lru_cache(maxsize=_SCHEDULES_KEPT)(self._make_schedule)

    @property
    def grid(self) -> int:
        """Side of the square that one token covers, in pixels: 2x2 latent pixels."""
        return 2 * int(self._parts.vae_scale_factor)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self._parts.transformer.config.in_channels) // 4

    @property
    def max_tokens(self) -> int:
        """Maximum length of a prompt in T5 tokens; further ones have no effect."""
        return min(MAX_TOKENS, int(self._parts.tokenizer_2.model_max_length))

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor on the network's device, in its dtype."""
        return tensor.to(self.device, self._number_format)

    def schedule(self, steps: int, size: Size) -> Schedule:
        """Return the sigma schedule. Images share it: it is never written to."""
        return self._schedule(steps, size.rows * size.columns)

    def _make_schedule(self, steps: int, tokens: int) -> Schedule:
        # By a scheduler of its own: the shared one counts its steps.
        config = self._parts.scheduler.config
        scheduler = type(self._parts.scheduler).from_config(config)
        mu = calculate_shift(
            tokens,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps), device=self.device, mu=mu)
        return Schedule(scheduler.sigmas, scheduler.timesteps)

    @property
    def has_fp8_copy(self) -> bool:
        """True if the transformer is there a second time, in fp8."""
        return self._fp8_copy is not None

    def velocities(self, images: Sequence[ForwardInputs], *, in_fp8: bool = False) -> Sequence[torch.Tensor]:
        """Predict the velocity [1, n, 4 x channels] of each image's tokens, in one forward of the transformer.

        All have the same positions; everything else is each one's own. `in_fp8`: by the transformer's copy in fp8.
        """
        transformer, first = self._fp8_copy if in_fp8 else self._parts.transformer, images[0]
        tokens = torch.cat([image.tokens for image in images])
        guidance = torch.tensor([image.guidance for image in images], dtype=torch.float32, device=tokens.device)
        velocities: torch.Tensor = transformer(
            hidden_states=tokens,
            # Rounded to the latents' format before the division, as in the loop that made the weights.
            timestep=torch.stack([image.time for image in images]).to(tokens.dtype) / 1000,
            guidance=guidance if transformer.config.guidance_embeds else None,
            pooled_projections=torch.cat([image.prompt.pooled for image in images]),
            encoder_hidden_states=torch.cat([image.prompt.words for image in images]),
            txt_ids=first.prompt.positions,
            img_ids=first.token_positions,
            return_dict=False,
        )[0]
        return velocities[:, None].unbind()

    def encode(self, image: Image.Image, size: Size) -> Any:
        """Return the VAE's distribution of the image's latents: `sample(generator)` or `mode()`, each for `scaled`.

        An image smaller than `size` is centred, as finished images are cropped, and its edges are replicated.
        """
        processor = self._parts.image_processor
        pixels = processor.normalize(processor.numpy_to_pt(processor.pil_to_numpy(image)))
        margins = size.margins(image.width, image.height)
        whole = torch.nn.functional.pad(pixels, margins, mode="replicate")
        return self._parts.vae.encode(self.to_device(whole)).latent_dist

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the VAE's latents, shifted and scaled for the transformer."""
        config = self._parts.vae.config
        scaled: torch.Tensor = (latents - config.shift_factor) * config.scaling_factor
        return scaled

    def decode(self, tokens: torch.Tensor, size: Size) -> torch.Tensor:
        """Decode the tokens with the VAE, as bytes [rows, columns, 3] on the network's device.

        Raises RenderError for pixels that are not finite.
        """
        vae = self._parts.vae
        latents = unpack(tokens, size) / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(latents, return_dict=False)[0]
        rgb = as_bytes(pixels)
        # One pass instead of two: a sum is finite only if all of its terms are.
        if not torch.isfinite(pixels.sum(dtype=torch.float32)):
            raise RenderError("The network computed values that are not colours (not a number, or infinite).")
        return rgb

    def _encode_prompt(self, prompt: str) -> Prompt:
        # CLIP's limit of 77 tokens is part of FLUX: CLIP sets the tone, T5 reads the prompt. For the limit of T5 there
        # is a warning of our own. The libraries' repeat the prompt, which is not for logs, and foresee errors in vain.
        with (
            _ONE_TOKENIZES,
            without_message("diffusers.pipelines.flux.pipeline_flux", "part of your input was truncated"),
            without_message("transformers.tokenization_utils_base", "Token indices sequence length"),
        ):
            words, pooled, token_positions = self._parts.encode_prompt(
                prompt, device=self.device, max_sequence_length=self.max_tokens
            )
            return Prompt(words, pooled, token_positions, self._warnings(prompt))

    def _warnings(self, prompt: str) -> tuple[str, ...]:
        tokens = len(self._parts.tokenizer_2(prompt, verbose=False)["input_ids"])
        if tokens <= self.max_tokens:
            return ()
        return (f"The prompt has {tokens} tokens; what comes after the first {self.max_tokens} had no effect.",)


def as_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels [1, 3, rows, columns] from -1 to 1 as bytes [rows, columns, 3], equal to diffusers' own."""
    unit = (pixels[0] * 0.5).add_(0.5).clamp_(0, 1)
    return (unit.float() * 255).round_().to(torch.uint8).permute(1, 2, 0)
