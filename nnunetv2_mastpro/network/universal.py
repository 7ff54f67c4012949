"""The head of the CLIP-Driven Universal Model (Liu et al., ICCV 2023) on a planned backbone, written from its paper.

B batch, T classes, D text width, F decoder channels, W width of the dynamic layers, N voxels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class UniversalHead(nn.Module):
    """theta_k = MLP([GAP(f); w_k]): weights and biases of three 1 x 1 x 1 convolutions of widths W, W, 1, per class.

    f: bottleneck, w_k: the class's text embedding. They run, with ReLU between them, on the decoder's features, which
    one convolution reduces to W channels; the sigmoid is the loss's.
    """

    def __init__(self, *, image_dim: int, text_dim: int, decoder_dim: int, hidden: int, axes: int):
        super().__init__()
        self.sizes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (1, WIDTH)]  # (out, in)
        conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[axes]
        self.reduce = nn.Sequential(norm(decoder_dim, affine=True), nn.ReLU(), conv(decoder_dim, WIDTH, 1))
        self.embed_image, self.embed_text = nn.Linear(image_dim, hidden), nn.Linear(text_dim, hidden)
        self.controller = nn.Sequential(nn.ReLU(), nn.Linear(2 * hidden, sum(o * i + o for o, i in self.sizes)))

    def forward(self, bottleneck: Tensor, decoded: Tensor, text: Tensor) -> Tensor:
        """bottleneck (B, image_dim, spatial), decoded (B, F, spatial), text (T, D) -> logits (B, T, spatial)."""
        pooled = self.embed_image(bottleneck.flatten(2).mean(2))  # GAP, (B, hidden)
        described = self.embed_text(text)  # (T, hidden)
        pairs = torch.cat(
            [pooled[:, None].expand(-1, len(text), -1), described[None].expand(len(pooled), -1, -1)], 2
        )  # (B, T, 2 hidden)
        theta = self.controller(pairs).flatten(0, 1)  # (B T, parameters)
        features = self.reduce(decoded).flatten(2)  # (B, W, N)
        features = features[:, None].expand(-1, len(text), -1, -1).flatten(0, 1)  # (B T, W, N)
        for number, (out, into) in enumerate(self.sizes):
            weight, bias, theta = theta.split([out * into, out, theta.shape[1] - out * into - out], 1)
            features = features if number == 0 else F.relu(features)
            features = torch.baddbmm(bias[..., None], weight.unflatten(1, (out, into)), features)
        return features.unflatten(0, (len(pooled), -1))[:, :, 0].unflatten(2, decoded.shape[2:])


class UniversalNet(nn.Module):
    """The planned backbone with that head.

    With `has_background` the outputs are a background whose logit is 0, class 1, ...: the largest output is then the
    class of the largest probability, where any is above 0.5. There is no deep supervision.
    """

    def __init__(self, *, backbone: nn.Module, head: UniversalHead, sentences: Tensor, has_background: bool):
        super().__init__()
        self.backbone, self.head, self.has_background = backbone, head, has_background
        self.register_buffer("sentences", sentences)  # (T, D), embedded

    def forward(self, image: Tensor) -> Tensor:
        """image (B, channels, spatial) -> logits (B, outputs, spatial)."""
        skips = self.backbone.encode(image, unadapted)
        decoded = self.backbone.decode(skips, unadapted)[-1]
        text = F.layer_norm(self.sentences, self.sentences.shape[1:])
        logits = self.head(skips[-1], decoded, text)
        return F.pad(logits, (0, 0) * (logits.ndim - 2) + (int(self.has_background), 0))


def unadapted(site: str, features: Tensor) -> Tensor:
    """No experts."""
    return features
