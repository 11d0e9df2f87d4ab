"""Mixers in NumPy, float64, written from the paper: each reads one project's names and shapes.

They share nothing with Mixer Lite, neither code nor key maps, so that its maps can be checked
against them. ``random_state`` makes weights in the exact format of each; S differs from C.
"""

import math

import numpy as np

SIZES = dict(side=20, patch=4, hidden=24, tokens=18, channels=40, depth=3, classes=7)  # S = 25


def random_state(project, *, side, patch, hidden, tokens, channels, depth, classes, seed=0):
    """Names to random float32 arrays, in the order in which the project's files have them."""
    s, c, k = (side // patch) ** 2, hidden, classes
    shapes = {}
    if project == "google":
        shapes["stem/kernel"], shapes["stem/bias"] = (patch, patch, 3, c), (c,)
        for i in range(depth):
            b = f"MixerBlock_{i}"
            for norm in ("LayerNorm_0", "LayerNorm_1"):
                shapes[f"{b}/{norm}/scale"] = shapes[f"{b}/{norm}/bias"] = (c,)
            for mlp, n, d in (("token_mixing", s, tokens), ("channel_mixing", c, channels)):
                shapes[f"{b}/{mlp}/Dense_0/kernel"], shapes[f"{b}/{mlp}/Dense_0/bias"] = (
                    (n, d),
                    (d,),
                )
                shapes[f"{b}/{mlp}/Dense_1/kernel"], shapes[f"{b}/{mlp}/Dense_1/bias"] = (
                    (d, n),
                    (n,),
                )
        shapes["pre_head_layer_norm/scale"] = shapes["pre_head_layer_norm/bias"] = (c,)
        if k:
            shapes["head/kernel"], shapes["head/bias"] = (c, k), (k,)
    elif project == "openmmlab":
        shapes["backbone.patch_embed.projection.weight"] = (c, 3, patch, patch)
        shapes["backbone.patch_embed.projection.bias"] = (c,)
        for i in range(depth):
            b = f"backbone.layers.{i}"
            for norm, mlp, n, d in (
                ("ln1", "token_mix", s, tokens),
                ("ln2", "channel_mix", c, channels),
            ):
                shapes[f"{b}.{norm}.weight"] = shapes[f"{b}.{norm}.bias"] = (c,)
                shapes[f"{b}.{mlp}.layers.0.0.weight"] = (d, n)
                shapes[f"{b}.{mlp}.layers.0.0.bias"] = (d,)
                shapes[f"{b}.{mlp}.layers.1.weight"] = (n, d)
                shapes[f"{b}.{mlp}.layers.1.bias"] = (n,)
        shapes["backbone.ln1.weight"] = shapes["backbone.ln1.bias"] = (c,)
        if k:
            shapes["head.fc.weight"], shapes["head.fc.bias"] = (k, c), (k,)
    elif project == "lucidrains":
        shapes["1.weight"], shapes["1.bias"] = (c, patch * patch * 3), (c,)
        for j in range(2, depth + 2):
            for part, n, d, one in (("0", s, tokens, (1,)), ("1", c, channels, ())):
                shapes[f"{j}.{part}.fn.0.weight"] = (d, n, *one)
                shapes[f"{j}.{part}.fn.0.bias"] = (d,)
                shapes[f"{j}.{part}.fn.3.weight"] = (n, d, *one)
                shapes[f"{j}.{part}.fn.3.bias"] = (n,)
                shapes[f"{j}.{part}.norm.weight"] = shapes[f"{j}.{part}.norm.bias"] = (c,)
        shapes[f"{depth + 2}.weight"] = shapes[f"{depth + 2}.bias"] = (c,)
        if k:
            shapes[f"{depth + 4}.weight"], shapes[f"{depth + 4}.bias"] = (k, c), (k,)
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def exact_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True) - mean * mean  # as flax computes it
    return (x - mean) / np.sqrt(variance + eps) * scale + bias


def google(state, images):
    """Logits, or features without a head, of images (b, 3, h, w): tanh GELU, epsilon 1e-6."""
    w = {k: v.astype(np.float64) for k, v in state.items()}
    kernel = w["stem/kernel"]
    p = kernel.shape[0]
    h, width = images.shape[2:]
    x = images.astype(np.float64).transpose(0, 2, 3, 1)  # JAX has channels last
    x = np.stack(
        [
            np.tensordot(x[:, r : r + p, q : q + p], kernel, axes=3)
            for r in range(0, h, p)
            for q in range(0, width, p)
        ],
        axis=1,
    )
    x = x + w["stem/bias"]
    for i in range(sum(k.endswith("LayerNorm_0/scale") for k in w)):
        m = f"MixerBlock_{i}/"

        def dense(y, name, m=m):
            return y @ w[f"{m}{name}/kernel"] + w[f"{m}{name}/bias"]

        y = layer_norm(x, w[m + "LayerNorm_0/scale"], w[m + "LayerNorm_0/bias"], 1e-6)
        y = tanh_gelu(dense(y.swapaxes(1, 2), "token_mixing/Dense_0"))
        x = x + dense(y, "token_mixing/Dense_1").swapaxes(1, 2)
        y = layer_norm(x, w[m + "LayerNorm_1/scale"], w[m + "LayerNorm_1/bias"], 1e-6)
        y = tanh_gelu(dense(y, "channel_mixing/Dense_0"))
        x = x + dense(y, "channel_mixing/Dense_1")
    x = layer_norm(x, w["pre_head_layer_norm/scale"], w["pre_head_layer_norm/bias"], 1e-6)
    x = x.mean(1)
    return x @ w["head/kernel"] + w["head/bias"] if "head/kernel" in w else x


def openmmlab(state, images):
    """Logits, or features without a head, of images (b, 3, h, w): exact GELU, epsilon 1e-5."""
    w = {k: np.asarray(v, np.float64) for k, v in state.items()}
    kernel = w["backbone.patch_embed.projection.weight"]
    p = kernel.shape[-1]
    h, width = images.shape[2:]
    x = np.stack(
        [
            np.tensordot(images[:, :, r : r + p, q : q + p], kernel, axes=([1, 2, 3], [1, 2, 3]))
            for r in range(0, h, p)
            for q in range(0, width, p)
        ],
        axis=1,
    )
    x = x + w["backbone.patch_embed.projection.bias"]

    def ffn(y, m):
        y = exact_gelu(y @ w[f"{m}.layers.0.0.weight"].T + w[f"{m}.layers.0.0.bias"])
        return y @ w[f"{m}.layers.1.weight"].T + w[f"{m}.layers.1.bias"]

    for i in range(sum(k.endswith("ln2.weight") for k in w)):
        m = f"backbone.layers.{i}."
        y = layer_norm(x, w[m + "ln1.weight"], w[m + "ln1.bias"], 1e-5)
        x = x + ffn(y.swapaxes(1, 2), m + "token_mix").swapaxes(1, 2)
        y = layer_norm(x, w[m + "ln2.weight"], w[m + "ln2.bias"], 1e-5)
        x = x + ffn(y, m + "channel_mix")
    x = layer_norm(x, w["backbone.ln1.weight"], w["backbone.ln1.bias"], 1e-5).mean(1)
    return x @ w["head.fc.weight"].T + w["head.fc.bias"] if "head.fc.weight" in w else x


def lucidrains(state, images):
    """Logits, or features without a head, of images (b, 3, h, w): exact GELU, epsilon 1e-5."""
    w = {k: np.asarray(v, np.float64) for k, v in state.items()}
    p = math.isqrt(w["1.weight"].shape[1] // 3)
    b, _, h, width = images.shape
    patches = [
        images[:, :, r : r + p, q : q + p].transpose(0, 2, 3, 1).reshape(b, -1)
        for r in range(0, h, p)
        for q in range(0, width, p)
    ]
    x = np.stack(patches, axis=1) @ w["1.weight"].T + w["1.bias"]
    depth = sum(k.endswith(".0.norm.weight") for k in w)
    for j in range(2, depth + 2):
        y = layer_norm(x, w[f"{j}.0.norm.weight"], w[f"{j}.0.norm.bias"], 1e-5)
        # A convolution of width 1 over the channels, with tokens as its inputs.
        y = w[f"{j}.0.fn.0.weight"][:, :, 0] @ y + w[f"{j}.0.fn.0.bias"][:, None]
        y = w[f"{j}.0.fn.3.weight"][:, :, 0] @ exact_gelu(y) + w[f"{j}.0.fn.3.bias"][:, None]
        x = x + y
        y = layer_norm(x, w[f"{j}.1.norm.weight"], w[f"{j}.1.norm.bias"], 1e-5)
        y = exact_gelu(y @ w[f"{j}.1.fn.0.weight"].T + w[f"{j}.1.fn.0.bias"])
        x = x + y @ w[f"{j}.1.fn.3.weight"].T + w[f"{j}.1.fn.3.bias"]
    x = layer_norm(x, w[f"{depth + 2}.weight"], w[f"{depth + 2}.bias"], 1e-5).mean(1)
    head = f"{depth + 4}.weight"
    return x @ w[head].T + w[f"{depth + 4}.bias"] if head in w else x


FORWARD = {"google": google, "openmmlab": openmmlab, "lucidrains": lucidrains}
