"""The miniature: FLUX.1's architecture at a ten-thousandth of its size, made here, in the files of FLUX.1-dev.

It goes through the same code as real weights, on any machine, within a second or two. Its weights are random and its
pictures are blotches of colour that follow from prompt and seed: it shows that the farm works, not what SRPO can do.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from workers.pipelines.engine import (
    AutoencoderKL,
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    T5Config,
    T5EncoderModel,
)

#: Part of the folder's name: another recipe makes another folder, and leaves this one to workers that still use it.
RECIPE = 1
KONTEXT_RECIPE = 1

_SEED = 13
_KONTEXT_SEED = 17
_WIDTH = 64
#: Channels of the VAE from the picture inwards. Six levels, where FLUX.1 has four, make a factor of 32: a sixteenth of
#: the tokens, so that 1024x768 takes about a second on two cores.
_LEVELS = (8, 16, 32, 48, 64, 64)
#: Kernels that blur: sideways [1, 2, 1] where the picture grows, [1, 8, 1] elsewhere. Blotches instead of noise.
_WIDE = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16
_NARROW = torch.outer(torch.tensor([1.0, 8.0, 1.0]), torch.tensor([1.0, 8.0, 1.0])) / 100


def ensure_miniature(folder: Path) -> Path:
    """The miniature's own folder inside `folder`: made if it is not there, complete whenever it is."""
    return _ensure(folder / f"miniature-{RECIPE}", lambda made: _make().save_pretrained(made))


def ensure_kontext(folder: Path) -> Path:
    """The same for the miniature of Kontext: a transformer of its own, for the miniature's other parts."""
    return _ensure(
        folder / f"miniature-kontext-{KONTEXT_RECIPE}",
        lambda made: _make_transformer(_KONTEXT_SEED).save_pretrained(made / "transformer"),
    )


def _ensure(target: Path, make: Callable[[Path], object]) -> Path:
    """Any number of processes may ask at once, and any may die in between: each makes its own copy under another name,
    and the first to finish gives it the name that counts."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".miniature-") as scratch:
        made = Path(scratch) / target.name
        make(made)
        _to_disk(made)
        _publish(made, target)
    return target


def _publish(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        # A folder that holds files cannot be replaced by a rename: another process was faster, with the same bytes.
        if not target.is_dir():
            raise


def _to_disk(folder: Path) -> None:
    """Wait until every file is written, or a power cut after the rename could leave empty files under the name."""
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _make() -> FluxPipeline:
    with _undisturbed():
        pipeline = _parts()
    _fill(pipeline.text_encoder, _CLIP_RULES, seed=1)
    _fill(pipeline.text_encoder_2, _T5_RULES, seed=2)
    _fill(pipeline.vae, _VAE_RULES, seed=22)
    _balance_colours(pipeline.vae, seed=8)
    return pipeline


def _make_transformer(seed: int) -> FluxTransformer2DModel:
    with _undisturbed():
        transformer = _transformer()
    _fill(transformer, _TRANSFORMER_RULES, seed)
    _even_out(transformer)
    return transformer


def _undisturbed() -> AbstractContextManager[None]:
    """Building a part draws from torch's generator, which is not ours to change. What it draws is overwritten."""
    return torch.random.fork_rng(devices=[])


def _parts() -> FluxPipeline:
    tokenizer, tokenizer_2 = _clip_tokenizer(), ByT5Tokenizer(model_max_length=512)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_t5(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=_make_transformer(_SEED),
    )


def _clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer with the 256 bytes as its only words: up to 77 of them, nothing to download."""
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)


def _clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _t5(tokenizer: ByT5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=_WIDTH,
        d_kv=_WIDTH // 4,
        d_ff=2 * _WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config)


def _transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=_WIDTH // 2,
        num_attention_heads=2,
        joint_attention_dim=_WIDTH,
        pooled_projection_dim=_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=_LEVELS,
        down_block_types=("DownEncoderBlock2D",) * len(_LEVELS),
        up_block_types=("UpDecoderBlock2D",) * len(_LEVELS),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=2,
        sample_size=1024,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """How the parameters whose names match are drawn: the first rule that matches counts."""

    pattern: str
    #: Standard deviation of a layer's output for inputs of 1, of a bias or a table; the value of a norm's weight.
    gain: float
    #: Shape (3, 3): what a convolution's random kernel is multiplied with.
    kernel: torch.Tensor | None = None


# Found by trial, with pictures: prompts have to reach the picture through two encoders, attention and modulation, and
# with gains of 1 everywhere they change almost nothing.
_DEFAULTS = [_Rule(r"\.bias$", 0.0), _Rule(r"", 1.0, _NARROW)]
_CLIP_RULES = [
    _Rule(r"token_embedding", 8.0),
    _Rule(r"(v|out)_proj\.weight", 3.0),
    _Rule(r"[qk]_proj\.weight", 2.0),
]
_T5_RULES = [_Rule(r"shared", 8.0), _Rule(r"relative_attention_bias", 0.5)]
_TRANSFORMER_RULES = [
    _Rule(r"text_embedder.*weight", 2.5),
    _Rule(r"(to_q|add_q_proj|to_k)\.bias", 1.0),
    _Rule(r"norm_(added_)?[qk]", 3.0),
    _Rule(r"norm_out\.linear\.weight", 0.3),
    _Rule(r"norm(1|1_context)?\.linear\.weight", 2.0),
    _Rule(r"^proj_out\.weight", 0.8),
]
_VAE_RULES = [_Rule(r"upsamplers.*weight|decoder\.conv_in\.weight", 1.0, _WIDE)]


def _fill(model: nn.Module, rules: Sequence[_Rule], seed: int) -> None:
    """Draw every parameter anew, in the order of their names: the same numbers with any release of the libraries."""
    generator = torch.Generator().manual_seed(seed)
    rules = [*rules, *_DEFAULTS]
    for name, parameter in sorted(model.named_parameters()):
        rule = next(rule for rule in rules if re.search(rule.pattern, name))
        parameter.data = _draw(name, parameter.shape, rule, generator)


def _draw(name: str, shape: torch.Size, rule: _Rule, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1 and name.endswith("weight"):
        return torch.full(shape, rule.gain)
    if len(shape) == 1:
        return rule.gain * torch.randn(shape, generator=generator)
    fan = rule.gain / math.sqrt(shape[1])
    if shape[2:] == (3, 3) and rule.kernel is not None:
        return fan * rule.kernel * torch.randn((*shape[:2], 1, 1), generator=generator)
    return fan * torch.randn(shape, generator=generator)


def _even_out(transformer: FluxTransformer2DModel) -> None:
    """Let the four latent pixels of a token be moved alike, or every picture shows the grid of tokens."""
    weight = transformer.proj_out.weight
    weight.data = weight.data[::4].repeat_interleave(4, dim=0)


def _balance_colours(vae: AutoencoderKL, seed: int) -> None:
    """Make red, green and blue independent of one another and of the channels' mean: colours around a middle grey."""
    channels = _LEVELS[0]
    generator = torch.Generator().manual_seed(seed)
    directions = torch.cat([torch.ones(channels, 1), torch.randn(channels, 3, generator=generator)], dim=1)
    colours = torch.linalg.qr(directions).Q[:, 1:].T
    vae.decoder.conv_out.weight.data = colours[:, :, None, None] * _NARROW
