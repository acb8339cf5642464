"""The network's parts: the bytes of an image, and the layout of the VAE's memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.pipelines.denoising import miniature_parts
from workers.pipelines.latents import Size, unpack
from workers.pipelines.lean_vae import use_lean_vae
from workers.pipelines.network import Network, as_bytes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SIZE = Size(192, 256, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_diffusers(parts: Any, dtype: torch.dtype) -> None:
    """Among the pixels: halves between two levels, which round to even, and values beyond both ends."""
    halves = (torch.arange(-8, 520) / 2 / 127.5 - 1).reshape(1, 3, 8, 22)
    noise = torch.randn(1, 3, 70, 90, generator=torch.Generator().manual_seed(3))
    for pixels in (halves.to(dtype), noise.to(dtype), noise.to(dtype).to(memory_format=torch.channels_last)):
        expected = np.asarray(parts.image_processor.postprocess(pixels.clone())[0])

        assert np.array_equal(as_bytes(pixels).numpy(), expected)


class WatchedTokenizer:
    """A tokenizer that notices calls that overlap, and waits a moment for one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._inside = threading.Lock()
        self.overlapped = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._inside.acquire(blocking=False):
            self.overlapped.set()
        self.overlapped.wait(0.2)
        encoded = self._tokenizer(*args, **kwargs)
        if self._inside.locked():
            self._inside.release()
        return encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_threads_that_encode_prompts_do_not_share_a_tokenizer_at_a_time(parts: Any) -> None:
    """One cut the other's prompt: a tokenizer keeps its padding and truncation between calls."""
    watched = parts.tokenizer_2 = WatchedTokenizer(parts.tokenizer_2)
    threads = [threading.Thread(target=Network(parts).prompt, args=(prompt,)) for prompt in ("a star", "a red fox")]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not watched.overlapped.is_set()


def test_channels_last_changes_a_decoded_image_by_one_level_at_most() -> None:
    """It sums in another order, and twice as fast."""
    plain, parts = miniature_parts(), miniature_parts()
    network = Network(parts)
    tokens = torch.randn(1, SIZE.rows * SIZE.columns, 64, generator=torch.Generator().manual_seed(3))
    config = plain.vae.config

    with torch.inference_mode():
        ours = network.decode(tokens, SIZE)
        latents = unpack(tokens, SIZE) / config.scaling_factor + config.shift_factor
        theirs = as_bytes(plain.vae.decode(latents, return_dict=False)[0])

    assert parts.vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.vae.decoder.conv_in.weight.is_contiguous()
    assert int((ours.int() - theirs.int()).abs().max()) <= 1
    assert float((ours != theirs).float().mean()) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lean_vae_computes_what_diffusers_computes(dtype: torch.dtype) -> None:
    """Blocks that change their number of channels are among them, and those that do not; in both directions."""
    plain, lean = miniature_parts().vae.to(dtype), miniature_parts().vae.to(dtype)
    plain.to(memory_format=torch.channels_last)
    use_lean_vae(lean)
    generator = torch.Generator().manual_seed(3)
    latents, image = torch.randn(1, 16, 4, 6, generator=generator), torch.rand(1, 3, 128, 192, generator=generator)

    with torch.inference_mode():
        decoded = [vae.decode(latents.to(dtype), return_dict=False)[0] for vae in (plain, lean)]
        encoded = [vae.encode(image.to(dtype)).latent_dist.parameters for vae in (plain, lean)]

    assert torch.equal(*decoded)
    assert torch.equal(*encoded)


def test_a_schedule_is_that_of_its_own_steps_and_size(parts: Any) -> None:
    network = Network(parts)
    few, many, wide = network.schedule(4, SIZE), network.schedule(5, SIZE), network.schedule(4, Size(640, 1024, 64))

    assert network.schedule(4, SIZE) is few
    assert (len(few.timesteps), len(many.timesteps)) == (4, 5)
    assert not torch.equal(few.sigmas, wide.sigmas)
    assert len(few.after(1).timesteps) == 3
    assert network.schedule(4, SIZE).timesteps.tolist() == few.timesteps.tolist() == sorted(few.timesteps, reverse=True)
