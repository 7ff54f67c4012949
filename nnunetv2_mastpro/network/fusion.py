"""Prompts and image features attend to each other, Eq. 6-7.

B batch, T prompts, D text width, C image channels, N bottleneck voxels, A attention width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mastpro.network.anatomy import AnatomyPrompts


class Attention(nn.Module):
    """Softmax(Q K^T / sqrt(d)) V over H heads, Eq. 6, with its projections.

    query (B, Q, query_dim), context (B, K, context_dim), allowed (B, K) bool or None, bias (B, H, Q, K) or None ->
    (B, Q, out_dim). A bias is added to the logits, and queries may then turn to nothing: a key and value of zero.
    """

    def __init__(self, *, query_dim: int, context_dim: int, dim: int, heads: int, out_dim: int):
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_context = nn.LayerNorm(query_dim), nn.LayerNorm(context_dim)
        self.query = nn.Linear(query_dim, dim)
        self.key = nn.Linear(context_dim, dim, bias=False)  # a key bias cancels in the softmax
        self.value = nn.Linear(context_dim, dim)
        self.out = nn.Linear(dim, out_dim)

    def forward(
        self, query: Tensor, context: Tensor, allowed: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        context = self.norm_context(context)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, ., A / H)
            for part in (self.query(self.norm_query(query)), self.key(context), self.value(context))
        )
        mask = None if allowed is None else allowed[:, None, None, :]
        if bias is not None:
            bias = bias.to(q.dtype) if mask is None else bias.to(q.dtype).masked_fill(~mask, -torch.inf)
            k, v, mask = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), F.pad(bias, (0, 1))  # nothing, at logit 0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class PromptFusion(nn.Module):
    """Cross-attention of prompts and bottleneck, both ways.

    Prompts query the image (Eq. 6); they do not attend to each other. The image then queries the refined prompts
    of the selected types, which gives F_attn in the image's own shape, to be added to it (Eq. 7). The way back
    starts at zero. Anatomical prompts join the queries, [Q_txt; Q_a] of Eq. 6, and keep each class to the voxels of
    its host organ in both directions: elsewhere voxels turn to nothing.
    """

    def __init__(self, *, image_dim: int, text_dim: int, dim: int, heads: int):
        super().__init__()
        self.embed_text = nn.Linear(text_dim, dim)
        self.to_prompts = Attention(query_dim=dim, context_dim=image_dim, dim=dim, heads=heads, out_dim=dim)
        self.to_image = Attention(query_dim=image_dim, context_dim=dim, dim=dim, heads=heads, out_dim=image_dim)
        nn.init.zeros_(self.to_image.out.weight)
        nn.init.zeros_(self.to_image.out.bias)

    def forward(self, image: Tensor, text: Tensor, selected: Tensor, anatomy: AnatomyPrompts | None = None) -> Tensor:
        """image (B, C, spatial), text (T, D), selected (B, T) bool -> F_attn (B, C, spatial)."""
        tokens = image.flatten(2).mT  # (B, N, C)
        queries, guidance = self.embed_text(text).expand(len(image), -1, -1), None  # (B, T, A)
        if anatomy is not None:
            queries = torch.cat([queries, queries + anatomy.tokens], 1)  # [Q_txt; Q_a]
            selected, guidance = selected.repeat(1, 2), anatomy.guidance.repeat(1, 1, 2, 1)
        refined = queries + self.to_prompts(queries, tokens, bias=guidance)  # Eq. 6
        attended = self.to_image(tokens, refined, selected, bias=None if guidance is None else guidance.mT)
        return attended.mT.unflatten(2, image.shape[2:])


class NoFusion(nn.Module):
    """In place of PromptFusion where no prompt is left: F_attn is zero."""

    def forward(self, image: Tensor, text: Tensor, selected: Tensor, anatomy: AnatomyPrompts | None = None) -> Tensor:
        """As PromptFusion."""
        return torch.zeros_like(image)
