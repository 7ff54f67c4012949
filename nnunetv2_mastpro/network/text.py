"""Text prompts as the network reads them, and what stands in their place in ablations.

T classes, D text width, K classes that take part.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SentencePrompts(nn.Module):
    """The sentences' embeddings, of zero mean and unit variance each; no parameter, so encoders of any scale fit."""

    def forward(self, embeddings: Tensor, classes: Sequence[int]) -> Tensor:
        """embeddings (T, D), the classes that take part -> (K, D)."""
        embeddings = embeddings[classes] if len(classes) < len(embeddings) else embeddings
        return F.layer_norm(embeddings, embeddings.shape[1:])


class ShuffledPrompts(SentencePrompts):
    """Every class has the sentence of another: the next one in the order of the data set, the last one the first's."""

    def __init__(self, num_classes: int):
        super().__init__()
        assert num_classes > 1, "one class has no other sentence to take"
        self.order = derangement(num_classes)

    def forward(self, embeddings: Tensor, classes: Sequence[int]) -> Tensor:
        """As SentencePrompts."""
        return super().forward(embeddings[self.order], classes)


class LearnedPrompts(nn.Module):
    """A learned vector per class, of the width of an embedding, which nothing but its class's number tells apart."""

    def __init__(self, *, num_classes: int, dim: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(num_classes, dim))

    def forward(self, embeddings: Tensor, classes: Sequence[int]) -> Tensor:
        """As SentencePrompts; the embeddings are not read."""
        return self.vectors[classes] if len(classes) < len(self.vectors) else self.vectors


def derangement(num_classes: int) -> list[int]:
    """Which class's sentence each class takes; none its own, from two classes on."""
    return [(index + 1) % num_classes for index in range(num_classes)]
