"""Lesson 6: evidence, depth, shuffles."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn

import mixer_lite as ml
from tests.check.zoo import right, wrong

# patch_evidence


@right("patch_evidence")
def evidence_with_loops(model, image):
    tokens = model.forward_features(image)[0]
    gh, gw = model.grid_size
    maps = torch.zeros(model.num_classes, gh, gw)
    for k in range(model.num_classes):
        for s in range(gh * gw):
            maps[k, s // gw, s % gw] = (model.head.weight[k] * tokens[s]).sum()
    return maps


@right("patch_evidence")
def evidence_with_einsum(model, image):
    tokens = rearrange(
        model.forward_features(image), "1 (gh gw) c -> gh gw c", gh=model.grid_size[0]
    )
    return torch.einsum("yxc,kc->kyx", tokens, model.head.weight)


@right("patch_evidence")
def evidence_as_a_convolution(model, image):
    tokens = model.norm(model.blocks(model.stem(model.patchify(image))))
    table = tokens.transpose(1, 2).unflatten(2, model.grid_size)  # (1, C, gh, gw)
    return F.conv2d(table, model.head.weight[:, :, None, None])[0]


@right("patch_evidence")
@torch.no_grad()
def evidence_from_the_head_less_its_bias(model, image):
    said = model.head(model.forward_features(image)) - model.head.bias
    return rearrange(said[0], "(gh gw) k -> k gh gw", gh=model.grid_size[0])


@right("patch_evidence")
def evidence_in_float64(model, image):
    double = copy.deepcopy(model).double()
    tokens = double.forward_features(image.double())[0]
    return (double.head.weight @ tokens.T).reshape(-1, *model.grid_size)


@wrong("patch_evidence", "bias in every patch", "keeps the bias apart")
def evidence_with_bias(model, image):
    said = model.head(model.forward_features(image))[0]
    return said.T.reshape(-1, *model.grid_size)


@wrong("patch_evidence", "gradient times input", "approximation")
def evidence_by_gradient(model, image):
    image = image.clone().requires_grad_()
    p, rows = model.patch_size, []
    for k in range(model.num_classes):
        (g,) = torch.autograd.grad(model(image)[0, k], image)
        rows.append(F.avg_pool2d((g * image).sum(dim=1, keepdim=True), p)[0, 0] * p * p)
    return torch.stack(rows)


@wrong("patch_evidence", "occlusion", "another question")
def evidence_by_covering(model, image):
    gh, gw = model.grid_size
    p, out = model.patch_size, torch.zeros(model.num_classes, gh, gw)
    for y in range(gh):
        for x in range(gw):
            covered = image.clone()
            covered[:, :, y * p : y * p + p, x * p : x * p + p] = 0
            out[:, y, x] = (model(image) - model(covered))[0]
    return out


@wrong("patch_evidence", "wrong shape", "(K, gh, gw)")
def evidence_with_batch_axis(model, image):
    return evidence_with_einsum(model, image)[None]


# depth_lens


def read(model, x):
    return model.head(model.norm(x).mean(dim=1))


@right("depth_lens")
def lens_with_a_loop(model, image):
    x = model.stem(model.patchify(image))
    rows = [read(model, x)[0]]
    for block in model.blocks:
        x = block(x)
        rows.append(read(model, x)[0])
    return torch.stack(rows)


@right("depth_lens")
def lens_with_identity(model, image):
    table, rows = model.stem(model.patchify(image)), []
    for block in [nn.Identity(), *model.blocks]:
        table = block(table)
        rows.append(model.head(reduce(model.norm(table), "1 s c -> c", "mean")))
    return torch.stack(rows)


@right("depth_lens")
def lens_with_hooks(model, image):
    kept = []
    hooks = [model.stem.register_forward_hook(lambda m, i, o: kept.append(o))]
    hooks += [b.register_forward_hook(lambda m, i, o: kept.append(o)) for b in model.blocks]
    model(image)
    for hook in hooks:
        hook.remove()
    return torch.cat([read(model, x) for x in kept])


@right("depth_lens")
def lens_by_slices_in_float64(model, image):
    double = copy.deepcopy(model).double()
    x = double.stem(double.patchify(image.double()))
    rows = [read(double, double.blocks[:n](x)) for n in range(1 + len(double.blocks))]
    return torch.cat(rows).detach()


@wrong("depth_lens", "first row missing", "before any block")
def lens_after_blocks_only(model, image):
    x, rows = model.stem(model.patchify(image)), []
    for block in model.blocks:
        x = block(x)
        rows.append(read(model, x))
    return torch.cat(rows)


@wrong("depth_lens", "last row missing", "after it")
def lens_before_blocks_only(model, image):
    x, rows = model.stem(model.patchify(image)), []
    for block in model.blocks:
        rows.append(read(model, x))
        x = block(x)
    return torch.cat(rows)


@wrong("depth_lens", "final norm forgotten", "normalised tokens")
def lens_without_norm(model, image):
    x = model.stem(model.patchify(image))
    rows = [model.head(x.mean(dim=1))]
    for block in model.blocks:
        x = block(x)
        rows.append(model.head(x.mean(dim=1)))
    return torch.cat(rows)


@wrong("depth_lens", "raises", "forgot_stem")
def lens_forgot_stem(model, image):
    def forgot_stem(x):
        return torch.cat([read(model, x)] + [read(model, b(x)) for b in model.blocks])

    return forgot_stem(image)


# shuffle_patches


@right("shuffle_patches")
def shuffle_with_loops(images, order, patch_size):
    p, gw = patch_size, images.shape[3] // patch_size
    out = torch.empty_like(images)
    for k, j in enumerate(order.tolist()):
        y, x, v, u = k // gw * p, k % gw * p, j // gw * p, j % gw * p
        out[:, :, y : y + p, x : x + p] = images[:, :, v : v + p, u : u + p]
    return out


@right("shuffle_patches")
def shuffle_with_einops(images, order, patch_size):
    p, gh = patch_size, images.shape[2] // patch_size
    x = rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (c p1 p2)", p1=p, p2=p)
    x = x[:, order]
    return rearrange(x, "b (gh gw) (c p1 p2) -> b c (gh p1) (gw p2)", gh=gh, p1=p, p2=p)


@right("shuffle_patches")
def shuffle_with_fold(images, order, patch_size):
    columns = F.unfold(images, patch_size, stride=patch_size)
    return F.fold(columns[..., order], images.shape[2:], patch_size, stride=patch_size)


@right("shuffle_patches")
def shuffle_in_float64(images, order, patch_size):
    p = patch_size
    b, c, h, w = images.shape
    x = images.double().view(b, c, h // p, p, w // p, p).permute(2, 4, 0, 1, 3, 5)
    x = torch.index_select(x.flatten(0, 1), 0, order).unflatten(0, (h // p, w // p))
    return x.permute(2, 3, 0, 4, 1, 5).reshape(b, c, h, w)


@right("shuffle_patches")
def shuffle_pixel_by_pixel(images, order, patch_size):
    h, w = images.shape[2:]
    numbers = torch.arange(h * w).view(1, 1, h, w)
    source = shuffle_with_loops(numbers, order, patch_size)
    return images.flatten(2)[..., source.flatten()].view_as(images)


@wrong("shuffle_patches", "inverse order", "do not assign")
def shuffle_by_assignment(images, order, patch_size):
    p, gh = patch_size, images.shape[2] // patch_size
    x = rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) c p1 p2", p1=p, p2=p)
    out = torch.empty_like(x)
    out[:, order] = x
    return rearrange(out, "b (gh gw) c p1 p2 -> b c (gh p1) (gw p2)", gh=gh)


@wrong("shuffle_patches", "each image its own order", "for all of them")
def shuffle_each_differently(images, order, patch_size):
    out = []
    for image in images:
        own = order[torch.randperm(len(order))]
        out.append(shuffle_with_einops(image[None], own, patch_size))
    return torch.cat(out)


@wrong("shuffle_patches", "another order", "than the one given")
def shuffle_at_random(images, order, patch_size):
    return shuffle_with_einops(images, torch.randperm(len(order)), patch_size)


@wrong("shuffle_patches", "nothing moved", "as they were")
def shuffle_forgets_to(images, order, patch_size):
    p, gh = patch_size, images.shape[2] // patch_size
    x = rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) c p1 p2", p1=p, p2=p)
    x.index_select(1, order)
    return rearrange(x, "b (gh gw) c p1 p2 -> b c (gh p1) (gw p2)", gh=gh)


@wrong("shuffle_patches", "column-major tokens", "(gh gw)")
def shuffle_down_the_columns(images, order, patch_size):
    p, gh = patch_size, images.shape[2] // patch_size
    x = rearrange(images, "b c (gh p1) (gw p2) -> b (gw gh) c p1 p2", p1=p, p2=p)[:, order]
    return rearrange(x, "b (gw gh) c p1 p2 -> b c (gh p1) (gw p2)", gh=gh)


@wrong("shuffle_patches", "patches lost", "Take the patches from the original")
def shuffle_over_itself(images, order, patch_size):
    p, gw = patch_size, images.shape[3] // patch_size
    out = images.clone()
    for k, j in enumerate(order.tolist()):
        y, x, v, u = k // gw * p, k % gw * p, j // gw * p, j % gw * p
        out[:, :, y : y + p, x : x + p] = out[:, :, v : v + p, u : u + p]
    return out


@wrong("shuffle_patches", "changes its input", "in place")
def shuffle_in_place(images, order, patch_size):
    images[:] = shuffle_with_einops(images, order, patch_size)
    return images


# reparametrise


@right("reparametrise")
@torch.no_grad()
def twin_by_copy(model, order):
    twin = copy.deepcopy(model)
    for old, new in zip(model.blocks, twin.blocks, strict=True):
        new.mlp_tokens.fc1.weight.copy_(old.mlp_tokens.fc1.weight[:, order])
        new.mlp_tokens.fc2.weight.copy_(old.mlp_tokens.fc2.weight[order])
        new.mlp_tokens.fc2.bias.copy_(old.mlp_tokens.fc2.bias[order])
    return twin


@right("reparametrise")
def twin_by_state_dict(model, order):
    twin, state = copy.deepcopy(model), {}
    for name, value in model.state_dict().items():
        if "mlp_tokens.fc1.weight" in name:
            value = value.index_select(1, order)
        elif "mlp_tokens.fc2" in name:
            value = value[order]
        state[name] = value
    twin.load_state_dict(state)
    return twin


@right("reparametrise")
def twin_built_from_its_sizes(model, order):
    twin = ml.MlpMixer(
        image_size=model.image_size,
        patch_size=model.patch_size,
        num_classes=model.num_classes,
        num_blocks=model.num_blocks,
        hidden_dim=model.hidden_dim,
        tokens_mlp_dim=model.tokens_mlp_dim,
        channels_mlp_dim=model.channels_mlp_dim,
        in_channels=model.in_channels,
    )
    twin.load_state_dict(model.state_dict())
    move = torch.eye(len(order)).to(model.head.weight)[order]  # rows of ones: place k <- order[k]
    for block in twin.blocks:
        mlp = block.mlp_tokens
        mlp.fc1.weight = nn.Parameter(mlp.fc1.weight @ move.T)
        mlp.fc2.weight = nn.Parameter(move @ mlp.fc2.weight)
        mlp.fc2.bias = nn.Parameter(move @ mlp.fc2.bias)
    return twin


@right("reparametrise")
def twin_whose_units_moved_too(model, order):
    twin = twin_by_copy(model, order)
    units = torch.randperm(model.tokens_mlp_dim)  # hidden units have no order
    for block in twin.blocks:
        mlp = block.mlp_tokens
        mlp.fc1.weight.data = mlp.fc1.weight.data[units]
        mlp.fc1.bias.data = mlp.fc1.bias.data[units]
        mlp.fc2.weight.data = mlp.fc2.weight.data[:, units]
    return twin


def moved_twin(model, fc1=None, fc2=None, bias=None, blocks=slice(None)):
    twin = copy.deepcopy(model)
    for block in twin.blocks[blocks]:
        mlp = block.mlp_tokens
        if fc1 is not None:
            mlp.fc1.weight.data = mlp.fc1.weight.data[:, fc1]
        if fc2 is not None:
            mlp.fc2.weight.data = mlp.fc2.weight.data[fc2]
        if bias is not None:
            mlp.fc2.bias.data = mlp.fc2.bias.data[bias]
    return twin


@wrong("reparametrise", "only W1 moved", "rows of W2 and its bias")
def twin_reads_only(model, order):
    return moved_twin(model, fc1=order)


@wrong("reparametrise", "changed the original", "deepcopy")
def twin_in_place(model, order):
    with torch.no_grad():
        for block in model.blocks:
            block.mlp_tokens.fc1.weight[:] = block.mlp_tokens.fc1.weight[:, order]
            block.mlp_tokens.fc2.weight[:] = block.mlp_tokens.fc2.weight[order]
            block.mlp_tokens.fc2.bias[:] = block.mlp_tokens.fc2.bias[order]
    return model


@wrong("reparametrise", "nothing moved", "those of the old one")
def twin_unchanged(model, order):
    twin = copy.deepcopy(model)
    for block in twin.blocks:
        block.mlp_tokens.fc1.weight.data[:, order]
    return twin


@wrong("reparametrise", "moved what knows no places", "stem.weight")
def twin_moves_the_stem(model, order):
    twin = moved_twin(model, order, order, order)
    columns = torch.arange(twin.stem.in_features).roll(1)
    twin.stem.weight.data = twin.stem.weight.data[:, columns]
    return twin


@wrong("reparametrise", "not a model", "load_state_dict")
def twin_as_weights(model, order):
    return twin_by_copy(model, order).state_dict()


@wrong("reparametrise", "not a model", "MlpMixer")
def twin_that_unshuffles_the_image(model, order):
    class Unshuffled(nn.Module):
        def forward(self, images):
            return model(shuffle_with_einops(images, order.argsort(), model.patch_size))

    return Unshuffled()


@wrong("reparametrise", "raises", "index")
def twin_moves_the_wrong_bias(model, order):
    twin = moved_twin(model, order, order)
    for block in twin.blocks:
        hidden = block.mlp_tokens.fc1.bias
        hidden.data = hidden.data[torch.from_numpy(np.asarray(order) + len(hidden))]
    return twin
