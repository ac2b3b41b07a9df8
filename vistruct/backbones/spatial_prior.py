"""A small convolutional pyramid that gives a ViT-Adapter what patches lose: edges and small things.

Source: Chen et al., Vision Transformer Adapter, arXiv:2205.08534, section 3.2.
Differs: channel-first layer norms where the paper has SyncBN, as in ViTP's downstream code.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d


class SpatialPrior(nn.Module):
    """float[B, C, H, W] -> four float[B, D, H/s, W/s] at strides 4, 8, 16 and 32."""

    def __init__(self, channels: int, width: int, conv_width: int) -> None:
        super().__init__()
        n = conv_width
        self.stem = nn.Sequential(
            *_conv(channels, n, stride=2), *_conv(n, n), *_conv(n, n), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.conv2 = nn.Sequential(*_conv(n, 2 * n, stride=2))
        self.conv3 = nn.Sequential(*_conv(2 * n, 4 * n, stride=2))
        self.conv4 = nn.Sequential(*_conv(4 * n, 4 * n, stride=2))
        self.fc1, self.fc2, self.fc3, self.fc4 = (nn.Conv2d(k * n, width, 1) for k in (1, 2, 4, 4))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c1 = self.stem(image)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        return self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(self.conv4(c3))


def _conv(before: int, after: int, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)  # the norm that follows has the bias
    return conv, LayerNorm2d(after, eps=1e-6), nn.ReLU(inplace=True)
