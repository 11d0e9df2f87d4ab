"""Lesson 2, functions."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from einops.layers.torch import EinMix
from torch import nn

from tests.check.zoo import right, wrong


@right("token_mixing")
def tokens_with_loops(x, w1, b1, w2, b2):
    out = torch.zeros_like(x)
    for image in range(x.shape[0]):
        for c in range(x.shape[2]):
            column = x[image, :, c]
            out[image, :, c] = w2 @ F.gelu(w1 @ column + b1) + b2
    return out


@right("token_mixing")
def tokens_with_einops(x, w1, b1, w2, b2):
    y = rearrange(x, "b s c -> b c s")
    y = F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2)
    return rearrange(y, "b c s -> b s c")


@right("token_mixing")
def tokens_from_the_left(x, w1, b1, w2, b2):
    hidden = w1 @ x + b1[:, None]
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return w2 @ hidden + b2[:, None]


@right("token_mixing")
def tokens_with_einsum_in_float64(x, w1, b1, w2, b2):
    x, w1, b1, w2, b2 = (v.double() for v in (x, w1, b1, w2, b2))
    hidden = einsum(w1, x, "d s, b s c -> b d c") + rearrange(b1, "d -> d 1")
    return einsum(w2, F.gelu(hidden), "s d, b d c -> b s c") + rearrange(b2, "s -> s 1")


@right("token_mixing")
def tokens_with_a_convolution(x, w1, b1, w2, b2):
    first, second = nn.Conv1d(*w1.shape[::-1], 1), nn.Conv1d(*w2.shape[::-1], 1)
    values = {first: (w1, b1), second: (w2, b2)}
    for layer, (w, b) in values.items():
        layer.load_state_dict({"weight": w[:, :, None], "bias": b})
    return nn.Sequential(first, nn.GELU(), second)(x)


@right("token_mixing")
def tokens_with_einmix(x, w1, b1, w2, b2):
    d, s = w1.shape
    first = EinMix("b s c -> b d c", weight_shape="s d", bias_shape="d", s=s, d=d)
    second = EinMix("b d c -> b s c", weight_shape="d s", bias_shape="s", s=s, d=d)
    with torch.no_grad():
        for layer, w, b in ((first, w1, b1), (second, w2, b2)):
            layer.weight.copy_(w.T.reshape(layer.weight.shape))
            layer.bias.copy_(b.reshape(layer.bias.shape))
    return second(F.gelu(first(x)))


@right("token_mixing")
def tokens_with_timm(x, w1, b1, w2, b2):
    from timm.layers import Mlp

    mlp = Mlp(w1.shape[1], w1.shape[0])
    first, second = {"weight": w1, "bias": b1}, {"weight": w2, "bias": b2}
    mlp.fc1.load_state_dict(first)
    mlp.fc2.load_state_dict(second)
    return mlp(x.mT).mT


@wrong("token_mixing", "both MLPs over channels", "turn the table first", "RuntimeError")
def tokens_along_channels(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


@wrong("token_mixing", "reshape for transpose", "A reshape moves no", "changing channel")
def tokens_turned_by_reshape(x, w1, b1, w2, b2):
    b, s, c = x.shape
    y = x.reshape(b, c, s)
    y = F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2)
    return y.reshape(b, s, c)


@wrong("token_mixing", "residual included", "Besides (LayerNorm included)")
def tokens_whole_sublayer(x, w1, b1, w2, b2):
    norm = nn.LayerNorm(x.shape[-1])
    return x + tokens_from_the_left(norm(x), w1, b1, w2, b2)


@wrong("token_mixing", "no activation", "only one")
def tokens_linear(x, w1, b1, w2, b2):
    return w2 @ (w1 @ x + b1[:, None]) + b2[:, None]


@wrong("token_mixing", "activation twice", "after your second layer")
def tokens_bent_twice(x, w1, b1, w2, b2):
    y = x.transpose(-1, -2)
    for w, b in ((w1, b1), (w2, b2)):
        y = F.gelu(F.linear(y, w, b))
    return y.transpose(-1, -2)


@wrong("token_mixing", "not the same twice", "dropout")
def tokens_with_dropout(x, w1, b1, w2, b2):
    return w2 @ F.dropout(F.gelu(w1 @ x + b1[:, None]), 0.3) + b2[:, None]


@wrong("token_mixing", "mixes channels", "No channel may influence", "changing channel")
def tokens_centred(x, w1, b1, w2, b2):
    return tokens_from_the_left(x - x.mean(2, keepdim=True), w1, b1, w2, b2)


@wrong("token_mixing", "mixes images", "No image of a batch")
def tokens_with_batch_norm(x, w1, b1, w2, b2):
    return tokens_from_the_left(x - x.mean(0), w1, b1, w2, b2)


@wrong("token_mixing", "raises", "tokens_of_one_image(")
def tokens_of_one_image(x, w1, b1, w2, b2):
    assert x.ndim == 2, "one table"
    return w2 @ F.gelu(w1 @ x + b1[:, None]) + b2[:, None]


@wrong("token_mixing", "changes its input", "in place")
def tokens_in_place(x, w1, b1, w2, b2):
    for c in range(x.shape[2]):
        x[:, :, c] = F.linear(F.gelu(F.linear(x[:, :, c], w1, b1)), w2, b2)
    return x


@right("channel_mixing")
def channels_with_loops(x, w1, b1, w2, b2):
    rows = []
    for image in x:
        rows.append(torch.stack([w2 @ F.gelu(w1 @ token + b1) + b2 for token in image]))
    return torch.stack(rows)


@right("channel_mixing")
def channels_with_linear(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


@right("channel_mixing")
def channels_with_matrices(x, w1, b1, w2, b2):
    hidden = x @ w1.T + b1
    cdf = torch.distributions.Normal(0.0, 1.0).cdf(hidden)
    return (hidden * cdf) @ w2.T + b2


@right("channel_mixing")
def channels_with_einsum_in_float64(x, w1, b1, w2, b2):
    x, w1, b1, w2, b2 = (v.to(torch.float64) for v in (x, w1, b1, w2, b2))
    hidden = F.gelu(torch.einsum("bsc,dc->bsd", x, w1) + b1)
    return torch.einsum("bsd,cd->bsc", hidden, w2) + b2


@right("channel_mixing")
def channels_with_a_convolution(x, w1, b1, w2, b2):
    y = F.conv1d(rearrange(x, "b s c -> b c s"), w1[..., None], b1)
    return rearrange(F.conv1d(F.gelu(y), w2[..., None], b2), "b c s -> b s c")


@right("channel_mixing")
def channels_with_a_parameter_module(x, w1, b1, w2, b2):
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.ParameterList([w1.clone(), w2.clone()])
            self.b = nn.ParameterList([b1.clone(), b2.clone()])

        def forward(self, x):
            x = nn.GELU()(x @ self.w[0].t() + self.b[0])
            return x @ self.w[1].t() + self.b[1]

    return Mix()(x)


@wrong("channel_mixing", "both MLPs over tokens", "the last axis already", "RuntimeError")
def channels_turned(x, w1, b1, w2, b2):
    y = x.transpose(1, 2)
    return F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2).transpose(1, 2)


@wrong("channel_mixing", "tanh GELU", "F.gelu(x)")
def channels_with_tanh_gelu(x, w1, b1, w2, b2):
    h = F.linear(x, w1, b1)
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return F.linear(h, w2, b2)


@wrong("channel_mixing", "equal sizes only", "nothing has to be turned")
def channels_reshaped(x, w1, b1, w2, b2):
    b, s, c = x.shape
    y = x.reshape(b, c, s)
    return (F.gelu(y @ w1.T + b1) @ w2.T + b2).reshape(b, s, c)


@wrong("channel_mixing", "mixes tokens", "No token may influence", "changing channel")
def channels_of_running_sums(x, w1, b1, w2, b2):
    return channels_with_linear(x.cumsum(dim=1), w1, b1, w2, b2)


@wrong("channel_mixing", "does not mix channels", "did not change channel")
def channels_by_the_diagonal(x, w1, b1, w2, b2):
    n = min(w1.shape)
    gain = (w2[:, :n] * w1.T[:, :n]).sum(1)
    return F.gelu(x) * gain + b2


@wrong("channel_mixing", "wrong values", "other numbers")
def channels_halved_inside(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1) / 2), w2, b2)


@right("layer_norm")
def norm_by_hand(x, scale, shift, eps):
    mean = x.mean(dim=-1, keepdim=True)
    var = x.var(dim=-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + eps) * scale + shift


@right("layer_norm")
def norm_with_functional(x, scale, shift, eps):
    return F.layer_norm(x, (x.shape[-1],), scale, shift, eps)


@right("layer_norm")
def norm_with_einops_in_float64(x, scale, shift, eps):
    x = x.double()
    x = x - reduce(x, "b s c -> b s 1", "mean")
    power = reduce(x**2, "b s c -> b s 1", "mean")
    return x * (power + eps).rsqrt() * scale.double() + shift.double()


@right("layer_norm")
def norm_with_a_module(x, scale, shift, eps):
    norm = nn.LayerNorm(x.shape[-1], eps=eps)
    norm.weight, norm.bias = nn.Parameter(scale.clone()), nn.Parameter(shift.clone())
    return norm(x)


@right("layer_norm")
def norm_with_loops(x, scale, shift, eps):
    out = x.clone()
    for image in range(len(x)):
        for s in range(x.shape[1]):
            token = x[image, s]
            mean = token.sum() / token.numel()
            variance = ((token - mean) ** 2).sum() / token.numel()
            out[image, s] = (token - mean) / (variance + eps) ** 0.5 * scale + shift
    return out


@wrong("layer_norm", "over tokens", "channels of each token", "changing channel")
def norm_over_tokens(x, scale, shift, eps):
    var, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
    return (x - mean) / (var + eps).sqrt() * scale + shift


@wrong("layer_norm", "eps outside the root", "before the root")
def norm_with_eps_outside(x, scale, shift, eps):
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, keepdim=True, unbiased=False)
    return scale * (x - mean) / (std + eps) + shift


@wrong("layer_norm", "unbiased variance", "Besides (eps outside the root)")
def norm_from_the_annotated_transformer(x, scale, shift, eps):
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, keepdim=True)
    return scale * (x - mean) / (std + eps) + shift


@wrong("layer_norm", "mean deviation", "mean magnitude")
def norm_by_mean_deviation(x, scale, shift, eps):
    y = x - x.mean(-1, keepdim=True)
    return y / (y.abs().mean(-1, keepdim=True) + eps) * scale + shift


@wrong("layer_norm", "not finite", "NaN")
def norm_with_a_negative_root(x, scale, shift, eps):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(mean - x.abs().amax(-1, keepdim=True) - eps) * scale + shift


@right("sublayer")
def sublayer_in_one_line(x, norm, mix):
    return x + mix(norm(x))


@right("sublayer")
def sublayer_step_by_step(x, norm, mix):
    skip = x.clone()
    x = norm(x)
    x = mix(x)
    x += skip
    return x


@right("sublayer")
def sublayer_in_float64(x, norm, mix):
    change = mix(norm(x))
    return change.double() + x.double()


@right("sublayer")
def sublayer_as_a_module(x, norm, mix):
    class Residual(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) + x

    return Residual(nn.Sequential(norm, mix))(x)


@right("sublayer")
def sublayer_image_by_image(x, norm, mix):
    return torch.stack([one + mix.forward(norm.forward(one)) for one in x])


@wrong("sublayer", "residual missing", "no skip connection", "called mix once")
def sublayer_without_skip(x, norm, mix):
    return mix(norm(x))


@wrong("sublayer", "mix called twice", "on its own result", "called mix 2 times")
def sublayer_mixed_twice(x, norm, mix):
    for _ in range(1):
        y = mix(norm(x))
    return x + mix(y)


@wrong("sublayer", "changes its input", "in place")
def sublayer_in_place(x, norm, mix):
    x += mix(norm(x))
    return x


@wrong("sublayer", "returns its input", "nothing has been added")
def sublayer_that_forgets(x, norm, mix):
    y = norm(x)
    y = mix(y)
    return x


@wrong("sublayer", "not a tensor", "tuple")
def sublayer_with_both(x, norm, mix):
    y = mix(norm(x))
    return x + y, y


@wrong("sublayer", "returns nothing", "return")
def sublayer_without_return(x, norm, mix):
    x = x + mix(norm(x))
