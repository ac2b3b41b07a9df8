"""From the ViT's patch tokens to the language model's width: pixel shuffle, then a two-layer MLP.

Source: InternVL's `mlp1` and pixel shuffle "v2" (arXiv:2312.14238 and its public configuration); without the norm
    LLaVA-1.5's `mlp2x_gelu` (arXiv:2310.03744), whose names the layers then have.
Shapes: N tiles, h x w patches a tile, C ViT width, D language width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vistruct.errors import UserError


def pixel_shuffle(tokens: Tensor, grid_hw: tuple[int, int], factor: int = 2) -> Tensor:
    """Merge every factor x factor neighbourhood of patches into one wide token (space to depth).

    Args:
        tokens: float[N, h*w, C], row-major.
        grid_hw: (h, w), both multiples of `factor`.

    Returns:
        float[N, h/factor * w/factor, C * factor**2]; channels run over the rows of the neighbourhood first.

    Raises:
        UserError: the grid is not a multiple of `factor`.
    """
    n, _, c = tokens.shape
    h, w = grid_hw
    if h % factor or w % factor:
        raise UserError(
            f"a grid of {h} x {w} patches cannot be merged {factor} x {factor}",
            fix=f"choose a tile size that is a multiple of {factor} patches",
        )
    cells = tokens.view(n, h // factor, factor, w // factor, factor, c).permute(0, 1, 3, 2, 4, 5)
    return cells.reshape(n, (h // factor) * (w // factor), factor * factor * c)


class Projector(nn.Sequential):
    """LayerNorm (or none), Linear, GELU, Linear: float[N, L, vision] -> float[N, L, language]."""

    def __init__(self, vision: int, language: int, *, norm: bool = True, depth: int = 2) -> None:
        layers: list[nn.Module] = [nn.LayerNorm(vision)] if norm else []
        layers.append(nn.Linear(vision, language))
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(language, language)]
        super().__init__(*layers)

    def convert_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names of `transformers` (layer_norm, linear_1, linear_2) -> ours, which are those of the originals."""
        numbers = [str(at) for at, layer in enumerate(self) if isinstance(layer, nn.Linear)]
        ours = {f"linear_{at}": number for at, number in enumerate(numbers, start=1)} | {"layer_norm": "0"}
        found = {}
        for key, value in state.items():
            layer, dot, rest = key.partition(".")
            found[ours.get(layer, layer) + dot + rest] = value
        return found
