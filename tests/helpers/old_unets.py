"""MONAI Generative's diffusion U-Net, restated without that package.

It is MONAI core's network with the parts exchanged that differ: attention, cross-attention and upsampling. Attention is
written as plain loops over images and heads. The names of the weights are those of MONAI Generative.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.blocks import CrossAttentionBlock, SABlock, SpatialAttentionBlock, Upsample
from monai.networks.nets import DiffusionModelUNet
from torch import nn
from torch.nn import functional as F

SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 1,
    "num_res_blocks": (1, 2),
    "channels": (8, 16),
    "attention_levels": (False, True),
    "resblock_updown": False,
}
CONTEXT: dict[str, Any] = {"with_conditioning": True, "transformer_num_layers": 1, "cross_attention_dim": 5}

ONE_LEVEL: dict[str, Any] = SMALL | {"channels": (16,), "num_res_blocks": (1,), "attention_levels": (True,)}

READABLE: dict[str, dict[str, Any]] = {
    "attention in the middle alone": SMALL | {"attention_levels": (False, False)},
    "attention": SMALL,
    "attention everywhere": SMALL | {"attention_levels": (True, True)},
    "residual up- and downsampling": SMALL | {"resblock_updown": True},
    "one level": ONE_LEVEL,
    "one level, cross-attention": ONE_LEVEL | CONTEXT,
    "cross-attention": SMALL | CONTEXT,
    "two layers of cross-attention": SMALL | CONTEXT | {"transformer_num_layers": 2},
    "classes": SMALL | {"num_class_embeds": 4},
    "volumes": SMALL | {"spatial_dims": 3},
    "volumes, cross-attention": SMALL | CONTEXT | {"spatial_dims": 3},
}
"""Arguments of small networks that can be read from their weights."""

UNREADABLE: dict[str, Any] = {"num_head_channels": 4, "norm_num_groups": 4}


class OldAttention(nn.Module):
    """Attention within an image. The projection exists, and is not applied."""

    def __init__(self, channels: int, heads: int, norm: nn.Module) -> None:
        super().__init__()
        self.heads, self.norm = heads, norm
        self.to_q, self.to_k, self.to_v, self.proj_attn = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(x).flatten(2).mT
        attended = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), self.heads)
        return x + attended.mT.reshape(x.shape)


class OldCrossAttention(nn.Module):
    """Attention of tokens to a context, or to themselves without one."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k, self.to_v = (nn.Linear(context_channels, channels, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        context = x if context is None else context
        return self.to_out(attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class OldUpsampling(nn.Module):
    """Nearest neighbours, then a convolution."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor, emb: torch.Tensor | None = None) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """Softmax attention (B, tokens, channels), one image and one head after the other."""
    width = query.shape[-1] // heads
    images = []
    for q, k, v in zip(query, key, value, strict=True):
        columns = [slice(head * width, (head + 1) * width) for head in range(heads)]
        images.append(torch.cat([(q[:, c] @ k[:, c].T / width**0.5).softmax(-1) @ v[:, c] for c in columns], dim=-1))
    return torch.stack(images)


def make_old_unet(**arguments: Any) -> nn.Module:
    """The network for arguments of core's `DiffusionModelUNet`, with random weights in every layer."""
    network = DiffusionModelUNet(**UNREADABLE | arguments)
    exchange_parts(network)
    return randomise(network)


def exchange_parts(module: nn.Module) -> None:
    for name, part in list(module.named_children()):
        if (old := old_counterpart(part)) is not None:
            setattr(module, name, old)
        else:
            exchange_parts(part)


def old_counterpart(module: nn.Module) -> nn.Module | None:
    match module:
        case SpatialAttentionBlock():
            return OldAttention(module.attn.hidden_input_size, module.attn.num_heads, module.norm)
        case SABlock(to_q=query, to_k=key) | CrossAttentionBlock(to_q=query, to_k=key):
            assert isinstance(query, nn.Linear) and isinstance(key, nn.Linear)
            return OldCrossAttention(query.in_features, key.in_features, module.num_heads)
        case Upsample() if hasattr(module, "postconv"):
            return OldUpsampling(module.get_submodule("postconv"))
        case _:
            return None


def randomise(network: nn.Module) -> nn.Module:
    """Random weights that keep the scale of images. A new network would answer 0: its last layer is 0."""
    torch.manual_seed(0)
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            else:
                nn.init.normal_(parameter, std=0.1)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1, std=0.1)
    return network.eval()


def network_inputs(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Two images, timesteps, and what conditions the network."""
    generator = torch.Generator().manual_seed(1)
    sides = [8, 12, 4][: arguments["spatial_dims"]]
    inputs = {"x": torch.randn(2, arguments["in_channels"], *sides, generator=generator)}
    inputs["timesteps"] = torch.tensor([3, 700])
    if "cross_attention_dim" in arguments:
        inputs["context"] = torch.randn(2, 3, arguments["cross_attention_dim"], generator=generator)
    if "num_class_embeds" in arguments:
        inputs["class_labels"] = torch.tensor([0, 3])
    return inputs
