"""Latents, as the VAE encodes an image, and tokens, as the transformer reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Images per forward of encoder and VAE, and, unless images share one (`sharing.py`), of the transformer. Kernels are
#: chosen by shape, so an image that is computed in another company may differ in its last bits; alone, it has none.
FORWARD_SIZE = 1


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width in pixels, multiples of `grid`, the side of the square that one token covers."""

    height: int
    width: int
    grid: int

    @classmethod
    def around(cls, width: int, height: int, grid: int) -> Size:
        """Return the smallest size on the grid that contains an image of this width and height."""
        return cls(_round_up(height, grid), _round_up(width, grid), grid)

    @property
    def rows(self) -> int:
        return self.height // self.grid

    @property
    def columns(self) -> int:
        return self.width // self.grid

    def margins(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the pixels left, right, above and below of a centred image."""
        left, top = (self.width - width) // 2, (self.height - height) // 2
        return left, self.width - width - left, top, self.height - height - top


def noise(size: Size, channels: int, generator: torch.Generator) -> torch.Tensor:
    """Return noise latents [1, channels, 2 x rows, 2 x columns], drawn in fp32 on the CPU: equal on every device."""
    shape = (FORWARD_SIZE, channels, 2 * size.rows, 2 * size.columns)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Return latents [1, channels, 2 x rows, 2 x columns] as tokens [1, rows x columns, 4 x channels]: 2x2 patches."""
    _, channels, height, width = latents.shape
    patches = latents.view(FORWARD_SIZE, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(FORWARD_SIZE, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, size: Size) -> torch.Tensor:
    """Return tokens as latents: the inverse of `pack`."""
    channels = tokens.shape[2] // 4
    patches = tokens.view(FORWARD_SIZE, size.rows, size.columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(FORWARD_SIZE, channels, 2 * size.rows, 2 * size.columns)


def positions(size: Size, plane: int = 0, row: int = 0, column: int = 0) -> torch.Tensor:
    """Return each token's position [tokens, 3]: plane, row, column, offset by those given. Text tokens have all 0."""
    rows, columns = torch.meshgrid(torch.arange(size.rows), torch.arange(size.columns), indexing="ij")
    return torch.stack([torch.full_like(rows, plane), rows + row, columns + column], dim=-1).reshape(-1, 3)


def _round_up(length: int, grid: int) -> int:
    return -(-length // grid) * grid
