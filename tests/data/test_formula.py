"""Images that a formula draws: equal to the renderer's growth written out, the same on every machine, with classes."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vistruct.data.formula import Atom, FormulaDataConfig, atom, drawn, lines_of, perlin
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.recipes import classify, masked
from vistruct.recipes.small import small_vit

FLAT = Atom(vertices=8, lines=3, noise=2.5, growth=0.01, radius=20, waves=(2, 3), oval=(1.0, 1.5))


def slow_lines(atom: Atom, noise: np.ndarray) -> list[list[tuple[float, float]]]:
    """Vertex by vertex and line by line, as the public renderer goes; the vertex moves against the noise."""
    step, found = 2 * math.pi / atom.vertices, []
    x = [math.cos(step * v) * atom.radius * atom.oval[0] for v in range(atom.vertices)]
    y = [math.sin(step * v) * atom.radius * atom.oval[1] for v in range(atom.vertices)]
    for line in range(atom.lines):
        for v in range(atom.vertices):
            waves = 0.5 * math.sin(step * v * atom.waves[0]) + 0.5 * math.sin(step * v * atom.waves[1])
            in_x = noise[line, v, 0] * atom.noise - atom.noise - waves
            in_y = noise[line, v, 1] * atom.noise - atom.noise - waves
            x[v] -= math.cos(step * v) * (in_x - atom.growth)
            y[v] -= math.sin(step * v) * (in_y - atom.growth)
        found.append(list(zip(x, y, strict=True)))
    return found


def test_lines_grow_as_the_renderers_do() -> None:
    noise = perlin(np.random.default_rng(3), (FLAT.lines, FLAT.vertices, 2))
    np.testing.assert_allclose(lines_of(FLAT, np.random.default_rng(3)), slow_lines(FLAT, noise), rtol=1e-12)


def test_an_image_is_its_lines_one_after_the_other_and_closed() -> None:
    draw, one = np.random.default_rng(derive(5, "image", 2, 7)), atom(5, 2)
    lines = lines_of(one, draw)
    greys, centre = draw.integers(0, 256, one.lines), draw.integers(0, 1025, 2) / 2
    picture = Image.new("RGB", (128, 128))
    pen = ImageDraw.Draw(picture)
    for grey, line in zip(greys.tolist(), (lines + centre) / 4, strict=True):
        for at in range(one.vertices):  # segment by segment
            pen.line((*line[at], *line[(at + 1) % one.vertices]), fill=(grey, grey, grey), width=1)
    assert (np.asarray(picture) != drawn(5, 2, 7, 128)).mean() < 0.005  # where segments meet, one pixel may differ


def test_perlin_noise_is_zero_on_average_and_as_wide_as_its_formula_says() -> None:
    found = perlin(np.random.default_rng(0), (400_000,))
    place = (np.arange(20_000) + 0.5) / 20_000  # variance by integration: slopes have a mean square of 25.5
    share = 6 * place**5 - 15 * place**4 + 10 * place**3
    variance = 0.16 * 25.5 * (((1 - share) * place) ** 2 + (share * (1 - place)) ** 2).mean()
    assert abs(found.mean()) < 0.005
    assert found.var() == pytest.approx(variance, rel=0.01)


def test_classes_are_in_the_published_ranges_and_each_image_is_the_same_at_every_call() -> None:
    atoms = [atom(0, label) for label in range(300)]
    assert all(200 <= one.vertices <= 1000 and 1 <= one.lines <= 200 and 2 <= one.noise <= 6 for one in atoms)
    assert all(one.waves[0] != one.waves[1] or one.waves == (0, 0) for one in atoms)
    assert {one.waves[0] for one in atoms} == set(range(21))
    first, again = (FormulaDataConfig(classes=3, each=2, size=64).build() for _ in range(2))
    images = [first.sample(at, 0).images[0] for at in range(6)]
    assert all(torch.equal(image, again.sample(at, 9).images[0]) for at, image in enumerate(images))
    assert len({image.numpy().tobytes() for image in images}) == 6
    assert images[0].shape == (3, 64, 64)
    later = FormulaDataConfig(classes=3, each=1, first=1, size=64).build()
    assert torch.equal(later.sample(2, 0).images[0], images[5])
    assert [one.image_labels for one in first.records] == [(0,), (0,), (1,), (1,), (2,), (2,)]
    assert later.info.fingerprint != first.info.fingerprint == again.info.fingerprint
    assert len(pickle.dumps(FormulaDataConfig(classes=1000).build().records)) < 500  # a million images, none held


def test_both_recipes_learn_from_it(tmp_path: Path) -> None:
    for run in (
        classify.recipe(formula=3, size=32, batch=2),
        masked.recipe(formula=3, size=32, model="small", batch=2),
    ):
        data = run.only.data.model_copy(update={"size": 64}).build()
        part = run.only.task.model_copy(update={"backbone": small_vit(stem="conv")})
        task = part.build(data.info, tmp_path)
        loss = sum(task(task.collator([data.sample(at * 1000, at) for at in range(2)])).terms.values())
        assert torch.isfinite(torch.as_tensor(loss))
        measured = run.evals["val"].data.build()
        assert not {one.id for one in measured.records[:5]} & {one.id for one in data.records[:1000]}
    assert not classify.recipe(formula=3).only.data.augment.hflip  # ty: ignore[unresolved-attribute]


def test_what_a_formula_cannot_do_is_said() -> None:
    with pytest.raises(UserError, match="nothing to learn from") as caught:
        classify.recipe()
    assert "--formula 1000" in caught.value.fix
    with pytest.raises(UserError, match="--train-fraction means nothing"):
        classify.recipe(formula=10, train_fraction=0.5)
    with pytest.raises(UserError, match="--data means nothing"):
        masked.recipe(formula=10, data=(Path("images"),))
    with pytest.raises(UserError, match="nothing to tell apart"):
        classify.recipe(formula=1)
