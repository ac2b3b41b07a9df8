"""Visual tokens take the places that the text keeps for them."""

from __future__ import annotations

from torch import Tensor

from vistruct.errors import UserError


def splice(text: Tensor, visual: Tensor, is_image: Tensor) -> Tensor:
    """Write visual tokens into the image places, in reading order.

    Args:
        text: float[B, L, D], embeddings of all tokens.
        visual: float[T, N, D], N tokens for each of T tiles, in the order in which the rows mention them.
        is_image: bool[B, L].

    Returns:
        float[B, L, D].

    Raises:
        UserError: the number of places is not the number of visual tokens.
    """
    flat = visual.reshape(-1, visual.shape[-1])
    places = int(is_image.sum())
    if places != len(flat):
        raise UserError(f"{places} image places in the text but {len(flat)} visual tokens", fix="check the collator")
    return text.masked_scatter(is_image[..., None], flat.to(text.dtype))
