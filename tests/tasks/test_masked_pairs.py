"""Pairs of dates: the decoder looks at the other image, which is seen whole; which images are pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masked_models import SMALL, batch_of, part_of, same_as_halves, task
from PIL import Image
from torch.testing import assert_close

from vistruct.contracts import Sample
from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.errors import UserError
from vistruct.tasks.masked import Masked
from vistruct.tasks.masked_batches import HidePatches, MaskedBatch
from vistruct.tasks.masked_targets import Positions

BESIDE = SMALL.model_copy(update={"looks_beside": True})


def pairs_of(model: Masked, count: int = 3) -> MaskedBatch:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 2, model.channels, 32, 32), generator=draw, dtype=torch.uint8)
    return model.collator(
        [Sample(id=f"{i}", image_id=f"{i}", seed=i, images=list(pair)) for i, pair in enumerate(images)]
    )


def test_the_other_date_is_looked_at_and_hidden_pixels_are_not() -> None:
    model = task(decoder=BESIDE)
    batch = pairs_of(model)
    assert batch.beside is not None
    told = model.told(batch)
    cells = batch.is_hidden.view(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    unseen, later = part_of(batch, slice(None)), part_of(batch, slice(None))
    unseen.images = torch.where(cells, 255 - batch.images, batch.images)
    later.beside = torch.where(cells, 255 - batch.beside, batch.beside)
    assert torch.equal(model.told(unseen), told)
    assert not torch.allclose(model.told(later), told, atol=1e-3)


def test_a_decoder_that_hears_nothing_of_the_other_date_is_the_plain_one() -> None:
    model, plain = task(decoder=BESIDE), task()
    for block in model.decoder.blocks:  # ty: ignore[not-iterable]
        torch.nn.init.zeros_(block.multihead_attn.out_proj.weight)
    state = {
        name.replace("norm3", "norm2"): one
        for name, one in model.state_dict().items()
        if ("multihead_attn" not in name and "norm2" not in name) or "backbone" in name
    }
    plain.load_state_dict(state)
    batch = pairs_of(model)
    assert_close(model.told(batch), plain.told(replace(batch, beside=None)), atol=1e-6, rtol=1e-5)


def test_five_bands_and_any_split() -> None:
    model = task(channels=5, decoder=BESIDE).eval()
    same_as_halves(model, batch=pairs_of(model, 4))


def test_one_image_is_no_pair_but_has_a_vector() -> None:
    model = task(decoder=BESIDE)
    with pytest.raises(UserError, match="images in a sample: 1, where 2") as caught:
        batch_of(model)
    assert "--pairs" in str(caught.value)
    collate: Any = model.traits.predict_collator
    one = Sample(id="a", image_id="a", seed=0, images=[torch.zeros(3, 32, 32, dtype=torch.uint8)])
    assert model.predict(collate([one]))[0].image.shape == (24,)
    with pytest.raises(UserError, match="needs to know no position"):
        task(decoder=BESIDE, target=Positions(), corruption=HidePatches(unplaced=0.5))


def test_images_of_a_folder_are_dates_of_a_place(tmp_path: Path) -> None:
    sizes = {"a/2021": 40, "a/2022": 40, "a/2023": 40, "b/2021": 40, "b/2022": 48, "c/2020": 40}
    for number, (name, side) in enumerate(sizes.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((side, side, 3), number, np.uint8)).save(tmp_path / f"{name}.png")
    found = ImagesDataConfig(paths=(tmp_path,), groups="folder", pairs=True).build()
    pairs = [[int(image[0, 0, 0]) for image in found.sample(i, 0).images] for i in range(len(found))]
    assert pairs == [[0, 1], [1, 2], [2, 0]]
    assert found.report.counts == {
        "image left out: no other of its group": 1,
        "image left out: the next of its group has another size": 2,
    }
    with pytest.raises(UserError, match="nothing says which are of one place") as caught:
        ImagesDataConfig(paths=(tmp_path,), pairs=True)
    assert "--groups folder" in str(caught.value)
    with pytest.raises(UserError, match="no two images"):
        ImagesDataConfig(paths=(tmp_path / "c",), groups="folder", pairs=True).build()
