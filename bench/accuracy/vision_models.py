"""Convolutional networks, transformers and perceptrons for images of one channel."""

import torch
from torch import nn

__all__ = [
    "AttentionPool",
    "ConvNext",
    "Denoiser",
    "Mixer",
    "MobileNet",
    "ResNet",
    "Vit",
    "attention_pooled",
    "perceptron",
    "plain_cnn",
    "token_mlp",
]


class Attention(nn.Module):
    """Multi-head self-attention, its two products written as products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(stream).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5, dim=-1)
        return self.out(torch.matmul(weights, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A transformer layer, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.feed_forward = Attention(width, heads), token_mlp(width, 4 * width)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream + self.attention(self.norm1(stream))
        return stream + self.feed_forward(self.norm2(stream))


def token_mlp(width: int, hidden: int) -> nn.Sequential:
    """Two linear layers with GELU between them."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def perceptron(
    features: int,
    outputs: int,
    *,
    width: int,
    depth: int,
    activation: type[nn.Module] = nn.ReLU,
    norm: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Linear layers with a norm and an activation after all but the last."""
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers.append(nn.Linear(features, width))
        if norm is not None:
            layers.append(norm(width))
        layers.append(activation())
        features = width
    return nn.Sequential(*layers, nn.Linear(features, outputs))


def _convolution(
    before: int, after: int, size: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        before, after, size, stride=stride, padding=size // 2, groups=groups, bias=False
    )


def plain_cnn(channels: int, classes: int, *, norm: bool) -> nn.Sequential:
    """Three convolutions, ReLU and pooling, as LeNet and VGG have them."""
    layers: list[nn.Module] = []
    before = 1
    for after in (channels, channels, 2 * channels):
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers.append(nn.ReLU())
        before = after
    pooled = nn.AdaptiveAvgPool2d((2, 2))
    return nn.Sequential(*layers, pooled, nn.Flatten(), nn.Linear(4 * before, classes))


class Residual(nn.Module):
    """Two convolutions with BatchNorm around which the input goes, as in ResNet."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(before, after, stride=stride), nn.BatchNorm2d(after)
        self.conv2, self.norm2 = _convolution(after, after), nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        same = before == after and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(_convolution(before, after, 1, stride=stride), nn.BatchNorm2d(after))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(branch + self.shortcut(x))


class ResNet(nn.Sequential):
    """A stem, stages of residual blocks of doubling width, mean pooling."""

    def __init__(self, channels: int, classes: int, *, blocks: int = 1, stages: int = 2) -> None:
        layers: list[nn.Module] = [_convolution(1, channels), nn.BatchNorm2d(channels), nn.ReLU()]
        before = channels
        for stage in range(stages):
            after = channels << stage
            for block in range(blocks):
                layers.append(Residual(before, after, 2 if stage and not block else 1))
                before = after
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class Squeeze(nn.Module):
    """Channels times gates computed of their means (squeeze and excite)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.SiLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gates(x)


class Inverted(nn.Module):
    """Wide, depthwise, narrow, with the input added, as in MobileNet and EfficientNet."""

    def __init__(self, channels: int, squeeze: bool) -> None:
        super().__init__()
        wide = 4 * channels
        layers = [_convolution(channels, wide, 1), nn.BatchNorm2d(wide), nn.SiLU()]
        layers += [_convolution(wide, wide, groups=wide), nn.BatchNorm2d(wide), nn.SiLU()]
        layers += [Squeeze(wide)] if squeeze else []
        self.branch = nn.Sequential(
            *layers, _convolution(wide, channels, 1), nn.BatchNorm2d(channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class MobileNet(nn.Sequential):
    """A stem, inverted residual blocks, mean pooling."""

    def __init__(self, channels: int, classes: int, *, blocks: int, squeeze: bool) -> None:
        stem = (_convolution(1, channels), nn.BatchNorm2d(channels), nn.SiLU())
        body = (Inverted(channels, squeeze) for _ in range(blocks))
        head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes))
        super().__init__(*stem, *body, *head)


class NextBlock(nn.Module):
    """Depthwise convolution, LayerNorm over channels, two linear layers with GELU, as ConvNeXt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = token_mlp(channels, 4 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.mlp(self.norm(self.spatial(x).permute(0, 2, 3, 1)))
        return x + mixed.permute(0, 3, 1, 2)


class ConvNext(nn.Sequential):
    """A stem of 2 x 2 patches, ConvNeXt blocks, mean pooling, LayerNorm."""

    def __init__(self, channels: int, classes: int, *, blocks: int) -> None:
        stem = nn.Conv2d(1, channels, 2, stride=2)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(channels))
        super().__init__(
            stem, *(NextBlock(channels) for _ in range(blocks)), *head, nn.Linear(channels, classes)
        )


class Vit(nn.Module):
    """Patches of 2 x 2 pixels through transformer layers, the mean of the tokens classified."""

    def __init__(
        self, width: int, classes: int, *, layers: int, heads: int, patches: int = 16
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.place = nn.Parameter(0.02 * torch.randn(patches, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stream = self.patch(images).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.layers(stream)).mean(1))


class MixerLayer(nn.Module):
    """A perceptron over tokens and one over channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens, self.channels = token_mlp(tokens, 2 * tokens), token_mlp(width, 2 * width)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream + self.tokens(self.norm1(stream).transpose(1, 2)).transpose(1, 2)
        return stream + self.channels(self.norm2(stream))


class Mixer(nn.Module):
    """Patches through perceptrons alone (MLP-Mixer)."""

    def __init__(self, width: int, classes: int, *, layers: int, patches: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.layers = nn.Sequential(*(MixerLayer(patches, width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stream = self.patch(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.layers(stream)).mean(1))


class AttentionPool(nn.Module):
    """A mean of places that learned queries weigh."""

    def __init__(self, channels: int, queries: int, places: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.1 * torch.randn(places, channels))
        self.query = nn.Parameter(torch.randn(queries, channels) / channels**0.5)
        self.key, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = x.flatten(2).transpose(1, 2) + self.place
        weights = torch.softmax(torch.matmul(self.query, self.key(places).transpose(1, 2)), dim=-1)
        return torch.matmul(weights, self.value(places)).flatten(1)


def attention_pooled(channels: int, classes: int, *, queries: int = 4) -> nn.Sequential:
    """Two convolutions with BatchNorm and GELU, and attention in place of a mean."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.GELU(),
        AttentionPool(channels, queries, 64),
        nn.Linear(queries * channels, classes),
    )


class Denoiser(nn.Module):
    """A small U-Net: the noise is told from half and full resolution and taken away."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.SiLU())
        self.coarse = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.SiLU(),
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
        )
        self.last = nn.Conv2d(2 * channels, 1, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.fine(images)
        return images - self.last(torch.cat((fine, self.coarse(fine)), dim=1))
