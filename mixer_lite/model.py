"""MLP-Mixer in PyTorch and einops (Tolstikhin et al. 2021, arXiv 2105.01601).

Letters used in the shape comments, as in section 2 of the paper:

    b  images in a batch          S = gh * gw  tokens (patches), gh rows of gw
    P  patch_size, in pixels      C  hidden_dim: channels of a token
    D_S  tokens_mlp_dim           D_C  channels_mlp_dim
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from einops import rearrange, reduce
from torch import Tensor, nn

Gelu = Literal["exact", "tanh"]
Interpolation = Literal["bicubic", "bilinear"]
Resize = Literal["pillow", "opencv"]


@dataclass(frozen=True)
class ModelConfig:
    """How a model's inputs were prepared and what its outputs mean.

    Attributes:
        name: the model's name, as in ``list_models()`` or the file it came from.
        image_size: side in pixels of the square image that the model takes.
        mean, std: per-channel normalisation, on a 0-1 scale: ``(pixel - mean) / std``.
        interpolation: filter with which images are resized.
        crop: share of the resized image's shorter side that the centre crop keeps
            (0.875: resize the shorter side to 256, then cut 224; 1.0: no margin).
        class_names: one name per output, empty when unknown.
        source: one sentence: where the weights come from and under what licence.
        resize: the library whose filter resizes: Pillow's (timm, Google), which averages as it
            shrinks, or OpenCV's (OpenMMLab), which does not.
        upright: whether the training turned pictures as their EXIF orientation says; ``evaluate``
            does as the training did, ``predict`` always turns them.
        temperature: what ``predict`` divides the logits by, so that of the answers given with
            90 % about 90 % are right; 1.0 where nobody has measured it.
    """

    name: str
    image_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Interpolation = "bicubic"
    crop: float = 0.875
    class_names: tuple[str, ...] = ()
    source: str = "random weights: not trained"
    resize: Resize = "pillow"
    upright: bool = False
    temperature: float = 1.0


class MlpBlock(nn.Module):
    """Two fully connected layers with a GELU between, over the last axis (equation 1).

    ``(..., dim) -> (..., hidden_dim) -> (..., dim)``
    """

    def __init__(self, *, dim: int, hidden_dim: int, gelu: Gelu = "exact"):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU(approximate="none" if gelu == "exact" else "tanh")
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim) -> (..., dim)``."""
        x = self.fc1(x)  # (..., dim) -> (..., hidden_dim)
        x = self.act(x)
        return self.fc2(x)  # (..., hidden_dim) -> (..., dim)


class MixerBlock(nn.Module):
    """One Mixer layer (Figure 1): mix tokens, then mix channels, each with a skip connection.

    ``(b, S, C) -> (b, S, C)``
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        hidden_dim: int,
        tokens_mlp_dim: int,
        channels_mlp_dim: int,
        gelu: Gelu = "exact",
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_dim, eps=norm_eps)
        self.mlp_tokens = MlpBlock(dim=num_tokens, hidden_dim=tokens_mlp_dim, gelu=gelu)
        self.norm2 = nn.LayerNorm(hidden_dim, eps=norm_eps)
        self.mlp_channels = MlpBlock(dim=hidden_dim, hidden_dim=channels_mlp_dim, gelu=gelu)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, S, C) -> (b, S, C)``."""
        # Token mixing: one MLP, shared by all channels, along the columns of the table.
        y = rearrange(self.norm1(x), "b s c -> b c s")
        x = x + rearrange(self.mlp_tokens(y), "b c s -> b s c")
        # Channel mixing: one MLP, shared by all tokens, along the rows.
        return x + self.mlp_channels(self.norm2(x))  # (b, S, C)


class MlpMixer(nn.Module):
    """The whole Mixer: patches -> embedding -> ``num_blocks`` blocks -> mean over tokens -> head.

    ``(b, in_channels, h, w) -> (b, num_classes)`` logits; with ``num_classes=0`` there is no
    head and the output is the pooled features ``(b, C)``.

    Args:
        image_size: side of the input in pixels, or ``(height, width)``.
        patch_size: side P of a square patch in pixels; must divide the image size.
        num_classes: outputs of the linear head, or 0 for none.
        num_blocks: Mixer blocks, "number of layers" in Table 1.
        hidden_dim: C, channels of every token.
        tokens_mlp_dim: D_S, hidden width of the token-mixing MLPs.
        channels_mlp_dim: D_C, hidden width of the channel-mixing MLPs.
        in_channels: channels of the input image.
        gelu: ``"exact"`` (timm, OpenMMLab) or ``"tanh"`` (the official JAX code).
        norm_eps: epsilon of every LayerNorm; 1e-6 in the official code and timm.

    Raises:
        ValueError: a size is not a positive whole number, or P does not divide the image.
    """

    # What predict() needs besides the network; load_pretrained() and load_checkpoint() set it.
    config: ModelConfig | None = None

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        patch_size: int,
        num_classes: int,
        num_blocks: int,
        hidden_dim: int,
        tokens_mlp_dim: int,
        channels_mlp_dim: int,
        in_channels: int = 3,
        gelu: Gelu = "exact",
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        height, width = image_size if isinstance(image_size, (tuple, list)) else (image_size,) * 2
        sizes = dict(
            image_size=height, image_width=width, patch_size=patch_size, num_blocks=num_blocks,
            hidden_dim=hidden_dim, tokens_mlp_dim=tokens_mlp_dim,
            channels_mlp_dim=channels_mlp_dim, in_channels=in_channels,
        )  # fmt: skip
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more, not {value!r}.")
        if not isinstance(num_classes, int) or num_classes < 0:
            raise ValueError(
                f"num_classes must be a whole number, 0 for no head, not {num_classes!r}."
            )
        if gelu not in ("exact", "tanh"):
            raise ValueError(f'gelu must be "exact" or "tanh", not {gelu!r}.')

        self.image_size = (height, width)
        self.patch_size = patch_size
        self.grid_size = grid_of(self.image_size, patch_size)  # (gh, gw)
        self.num_tokens = self.grid_size[0] * self.grid_size[1]  # S
        self.num_classes, self.num_blocks, self.hidden_dim = num_classes, num_blocks, hidden_dim
        self.tokens_mlp_dim, self.channels_mlp_dim = tokens_mlp_dim, channels_mlp_dim
        self.in_channels, self.gelu, self.norm_eps = in_channels, gelu, norm_eps

        self.stem = nn.Linear(in_channels * patch_size**2, hidden_dim)
        self.blocks = nn.Sequential(
            *(
                MixerBlock(
                    num_tokens=self.num_tokens,
                    hidden_dim=hidden_dim,
                    tokens_mlp_dim=tokens_mlp_dim,
                    channels_mlp_dim=channels_mlp_dim,
                    gelu=gelu,
                    norm_eps=norm_eps,
                )
                for _ in range(num_blocks)
            )
        )
        self.norm = nn.LayerNorm(hidden_dim, eps=norm_eps)
        self.head = nn.Linear(hidden_dim, num_classes) if num_classes else nn.Identity()

    def patchify(self, images: Tensor) -> Tensor:
        """Cut images into patches: ``(b, in_channels, h, w) -> (b, S, in_channels * P * P)``.

        Raises:
            TypeError: the input is not a floating-point tensor.
            ValueError: its shape is not the one this model was built for.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(
                f"The model takes a floating-point tensor, not {got}: convert the images with "
                f"mixer_lite.images.preprocess, or images.float() / 255 and normalise."
            )
        wanted = (self.in_channels, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f"The model takes images of shape (batch, {', '.join(map(str, wanted))}), "
                f"not {tuple(images.shape)}."
            )
        p = self.patch_size
        return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (c p1 p2)", p1=p, p2=p)

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens after the last LayerNorm: ``(b, in_channels, h, w) -> (b, S, C)``."""
        x = self.stem(self.patchify(images))  # (b, S, in_channels*P*P) -> (b, S, C)
        x = self.blocks(x)  # (b, S, C)
        return self.norm(x)  # (b, S, C)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(b, num_classes)`` of images ``(b, in_channels, h, w)``."""
        x = self.forward_features(images)
        x = reduce(x, "b s c -> b c", "mean")
        return self.head(x)  # (b, C) -> (b, num_classes)


def grid_of(image_size: int | tuple[int, ...], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image; of its shape, height and width come first.

    Raises:
        ValueError: P does not divide the image.
    """
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size[:2]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size {patch_size} does not divide the image size {height} x {width}: "
            f"choose a patch size that divides both sides."
        )
    return height // patch_size, width // patch_size


def mixer_blocks(model: MlpMixer) -> list[MixerBlock]:
    """The model's blocks, first to last, with their type known."""
    return [cast(MixerBlock, block) for block in model.blocks]
