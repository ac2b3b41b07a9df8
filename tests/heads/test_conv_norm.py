"""Batch norm over ranks against one process with all the images; the norms that do not look at the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from several_processes import in_ranks
from torch import Tensor, nn

from vistruct.distributed.ranks import setup
from vistruct.errors import UserError
from vistruct.heads.conv_norm import BatchNorm, ConvNorm, norm_layer, resized

STEPS = 2


def images() -> Tensor:
    return 3 + 2 * torch.randn(4, 6, 5, 4, generator=torch.Generator().manual_seed(0))


def bricks() -> nn.Sequential:
    """With a map of one cell at the end, of which an image alone has no variance."""
    torch.manual_seed(1)
    return nn.Sequential(ConvNorm(6, 8, 3, "batch"), nn.AdaptiveAvgPool2d(1), ConvNorm(8, 5, 1, "batch"))


def trained(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Two steps without an update: outputs, gradients summed over them, and statistics."""
    x = x.clone().requires_grad_()
    outs = [model(x + step) for step in range(STEPS)]
    sum((out.square() * torch.linspace(0.5, 2, 5).view(1, -1, 1, 1)).sum() for out in outs).backward()
    found = {"x": x.grad, "out": torch.stack(outs, dim=1).detach()}
    found |= {f"grad {name}": p.grad for name, p in model.named_parameters()}
    return found | {f"buffer {name}": b for name, b in model.named_buffers()}


def work(folder: str) -> None:
    """Rank 0 has one image, rank 1 three."""
    rank = setup().rank
    torch.save(trained(bricks(), images().split([1, 3])[rank]), Path(folder) / f"{rank}.pt")


def test_batch_norm_over_ranks_is_that_of_one_process_with_all_images(tmp_path):
    assert in_ranks(2, work, str(tmp_path)) == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    model = bricks()
    for at in (0, 2):  # torch's own, in one process
        reference = nn.BatchNorm2d(model[at].bn.num_features)
        reference.load_state_dict(model[at].bn.state_dict())
        model[at].bn = reference
    for name, value in trained(model, images()).items():
        if name in ("x", "out"):
            found = torch.cat([part[name] for part in parts])
        elif name.startswith("grad"):  # as `distributed.gradients` sums them
            found = parts[0][name] + parts[1][name]
        else:
            found = parts[0][name]
            assert torch.equal(found, parts[1][name]), name  # what is saved by one rank is true of all
        torch.testing.assert_close(found, value, atol=2e-4, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_batch_norm_alone_is_torchs():
    ours, theirs = BatchNorm(6), nn.BatchNorm2d(6)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for _ in range(2):
        assert torch.equal(ours(images()), theirs(images()))
    assert torch.equal(ours.eval()(images()[:1, :, :1, :1]), theirs.eval()(images()[:1, :, :1, :1]))


def test_batch_norm_takes_vectors():
    vectors = images()[:, :, 0, 0]
    torch.testing.assert_close(BatchNorm(6, affine=False)(vectors), nn.BatchNorm1d(6, affine=False)(vectors))


def test_batch_norm_over_one_value_is_refused_with_a_way_out():
    with pytest.raises(UserError, match="one value a channel") as caught:
        BatchNorm(6)(torch.zeros(1, 6, 1, 1))
    assert "group" in caught.value.fix


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_an_image_is_normed_alone(kind):
    norm = norm_layer(kind, 6)
    torch.testing.assert_close(norm(images())[1:2], norm(images()[1:2]))
    assert norm(torch.randn(1, 6, 1, 1)).count_nonzero() == 6


@pytest.mark.parametrize(("channels", "groups"), [(512, 32), (1024, 32), (64, 16), (12, 2), (7, 1), (2, 1)])
def test_groups_divide_the_channels_and_have_four_of_them(channels, groups):
    assert norm_layer("group", channels).num_groups == groups


def test_what_has_the_size_is_not_resized():
    x = images()
    assert resized(x, (5, 4)) is x
    assert resized(x, (10, 8)).shape == (4, 6, 10, 8)
