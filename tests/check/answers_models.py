"""Lessons 4 and 7: converting weights, predicting, one step of training."""

import copy
import re
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from tests.check.zoo import right, wrong

# Converting, right


@right("convert_google")
def convert_by_a_table(arrays):
    blocks = {int(m[1]) for name in arrays if (m := re.match(r"MixerBlock_(\d+)/", name))}
    names = {
        "stem": "stem",
        "pre_head_layer_norm": "norm",
        "head": "head",
    }
    for i in blocks:
        names[f"MixerBlock_{i}/LayerNorm_0"] = f"blocks.{i}.norm1"
        names[f"MixerBlock_{i}/LayerNorm_1"] = f"blocks.{i}.norm2"
        for google, ours in (("token_mixing", "mlp_tokens"), ("channel_mixing", "mlp_channels")):
            names[f"MixerBlock_{i}/{google}/Dense_0"] = f"blocks.{i}.{ours}.fc1"
            names[f"MixerBlock_{i}/{google}/Dense_1"] = f"blocks.{i}.{ours}.fc2"
    state = {}
    for name, array in arrays.items():
        path, kind = name.rsplit("/", 1)
        if array.ndim == 4:
            array = rearrange(array, "p q c d -> d (c p q)")
        elif array.ndim == 2:
            array = array.T
        state[f"{names[path]}.{'bias' if kind == 'bias' else 'weight'}"] = torch.tensor(array)
    return state


@right("convert_google")
def convert_by_replacing(arrays):
    state = OrderedDict()
    for name, array in arrays.items():
        new = re.sub(r"MixerBlock_(\d+)", r"blocks.\1", name).replace("/", ".")
        for old, ours in [
            ("LayerNorm_0", "norm1"),
            ("LayerNorm_1", "norm2"),
            ("token_mixing", "mlp_tokens"),
            ("channel_mixing", "mlp_channels"),
            ("Dense_0", "fc1"),
            ("Dense_1", "fc2"),
            ("pre_head_layer_norm", "norm"),
            ("kernel", "weight"),
            ("scale", "weight"),
        ]:
            new = new.replace(old, ours)
        tensor = torch.from_numpy(array)
        if new == "stem.weight":
            tensor = tensor.permute(3, 2, 0, 1).flatten(1)
        elif tensor.ndim == 2:
            tensor = tensor.t()
        state[new] = tensor.contiguous()
    return state


@right("convert_google")
def convert_one_by_one(arrays):
    def dense(name):
        return torch.as_tensor(np.swapaxes(arrays[name + "/kernel"], 0, 1).copy())

    def vector(name):
        return nn.Parameter(torch.as_tensor(arrays[name]))

    state = {
        "stem.weight": torch.as_tensor(
            np.transpose(arrays["stem/kernel"], (3, 2, 0, 1)).reshape(len(arrays["stem/bias"]), -1)
        ),
        "stem.bias": vector("stem/bias"),
    }
    i = 0
    while f"MixerBlock_{i}/LayerNorm_0/scale" in arrays:
        for n in (0, 1):
            state[f"blocks.{i}.norm{n + 1}.weight"] = vector(f"MixerBlock_{i}/LayerNorm_{n}/scale")
            state[f"blocks.{i}.norm{n + 1}.bias"] = vector(f"MixerBlock_{i}/LayerNorm_{n}/bias")
            for google, ours in (("token", "tokens"), ("channel", "channels")):
                path = f"MixerBlock_{i}/{google}_mixing/Dense_{n}"
                state[f"blocks.{i}.mlp_{ours}.fc{n + 1}.weight"] = dense(path)
                state[f"blocks.{i}.mlp_{ours}.fc{n + 1}.bias"] = vector(path + "/bias")
        i += 1
    state["norm.weight"] = vector("pre_head_layer_norm/scale")
    state["norm.bias"] = vector("pre_head_layer_norm/bias")
    state["head.weight"], state["head.bias"] = dense("head"), vector("head/bias")
    return state


# Converting, wrong: what goes wrong after or within a right conversion


@wrong("convert_google", "transposed kernels", "(inputs, outputs)")
def convert_without_turning(arrays):
    state = convert_by_replacing(arrays)
    for name, value in state.items():
        if value.ndim == 2 and name != "stem.weight":
            state[name] = value.T
    return state


@wrong("convert_google", "stem's pixels in another order", "colour by colour")
def convert_stem_as_it_is(arrays):
    state = convert_by_table_again(arrays)
    k = torch.from_numpy(arrays["stem/kernel"])
    state["stem.weight"] = k.reshape(-1, k.shape[-1]).T
    return state


def convert_by_table_again(arrays):
    return dict(convert_by_a_table(arrays))


@wrong("convert_google", "reshape for transpose", "p q c d")
def convert_stem_by_reshape(arrays):
    state = convert_by_table_again(arrays)
    state["stem.weight"] = torch.from_numpy(
        arrays["stem/kernel"].reshape(len(arrays["stem/bias"]), -1)
    )
    return state


@wrong("convert_google", "not a dict", "list")
def convert_to_pairs(arrays):
    return list(convert_by_a_table(arrays).items())


@wrong("convert_google", "changes its input", "['stem/kernel']")
def convert_in_place(arrays):
    state = convert_by_a_table(arrays)
    arrays["stem/kernel"] *= 2
    return state


# Predicting, right


@right("predict")
def predict_with_topk(model, images, k):
    model.eval()
    with torch.no_grad():
        top = model(images).softmax(dim=1).topk(k, dim=1)
    return top.indices, top.values


@right("predict")
def predict_with_argsort(model, images, k):
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = model(images)
    model.train(was_training)
    powers = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
    p = powers / powers.sum(dim=1, keepdim=True)
    order = torch.argsort(p, dim=1, descending=True)[:, :k]
    return order, torch.gather(p, 1, order)


@right("predict")
def predict_one_at_a_time(model, images, k):
    model = copy.deepcopy(model).eval()
    indices, values = [], []
    for image in images:
        p = F.softmax(model(image[None])[0].detach(), dim=0).tolist()
        order = sorted(range(len(p)), key=lambda i, p=p: -p[i])[:k]
        indices.append(order)
        values.append([p[i] for i in order])
    return torch.tensor(indices, dtype=torch.int32), torch.tensor(values)


@right("predict")
def predict_with_sort(model, images, k):
    model.train(False)
    p, classes = F.log_softmax(model(images), -1).exp().data.sort(-1, descending=True)
    return [classes[..., :k], p[..., :k]]


# Predicting, wrong


@wrong("predict", "eval forgotten", "model.eval()")
def predict_in_training_mode(model, images, k):
    with torch.no_grad():
        top = model(images).softmax(1).topk(k)
    return top.indices, top.values


@wrong("predict", "eval forgotten", "dropout")
def predict_sets_eval_too_late(model, images, k):
    with torch.no_grad():
        logits = model(images)
    model.eval()
    values, indices = logits.softmax(1).topk(k)
    return indices, values


@wrong("predict", "gradients kept", "torch.no_grad()")
def predict_with_gradients(model, images, k):
    model.eval()
    values, indices = model(images).softmax(1).topk(k)
    return indices, values


@torch.no_grad()
def _logits(model, images):
    return model.eval()(images)


@wrong("predict", "wrong shape", "(b, k)")
def predict_the_best_only(model, images, k):
    p, i = _logits(model, images).softmax(1).max(1)
    return i, p


@wrong("predict", "scale", "100 times")
def predict_per_cent(model, images, k):
    p, i = _logits(model, images).softmax(1).topk(k)
    return i, 100 * p


@wrong("predict", "changes its input", "stem.weight")
def predict_scales_the_weights(model, images, k):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return predict_with_topk(model, images, k)


# A step of training, right


@right("training_step")
def step_as_in_the_book(model, optimizer, images, labels):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


@right("training_step")
def step_with_a_tiny_number_inside_the_logarithm(model, optimizer, images, labels):
    model.train()
    p = model(images).softmax(-1)[torch.arange(len(labels)), labels]
    loss = -(p + 1e-9).log().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@right("training_step")
def step_that_clears_afterwards(model, optimizer, images, labels):
    model.train(True)
    logits = model(images)
    loss = nn.CrossEntropyLoss()(logits, labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return float(loss)


@right("training_step")
def step_by_hand(model, optimizer, images, labels):
    model.train()
    for p in model.parameters():
        p.grad = None
    logits = model(images)
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    loss = -log_p[torch.arange(len(labels)), labels].mean()
    loss.backward()
    optimizer.step()
    return loss.detach().numpy().item()


@right("training_step")
def step_with_one_hot_labels(model, optimizer, images, labels):
    def closure():
        optimizer.zero_grad()
        logits = model.train()(images)
        targets = F.one_hot(labels, logits.shape[1]).to(logits)
        loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
        loss.backward()
        return loss

    return optimizer.step(closure).item()


@right("training_step")
def step_with_autograd_grad(model, optimizer, images, labels):
    model.train()
    params = list(model.parameters())
    loss = F.nll_loss(F.log_softmax(model(images), dim=1), labels)
    for p, grad in zip(params, torch.autograd.grad(loss, params), strict=True):
        p.grad = grad
    optimizer.step()
    return loss.item()


# A step of training, wrong


@wrong(
    "training_step", "zero_grad forgotten", "optimizer.zero_grad()", "off by up to 0 after step 1"
)
def step_piles_up(model, optimizer, images, labels):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


@wrong("training_step", "no gradients", "no zero_grad() between")
def step_clears_too_late(model, optimizer, images, labels):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@wrong("training_step", "step before backward", "before loss.backward()")
def step_too_early(model, optimizer, images, labels):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    optimizer.step()
    optimizer.zero_grad()
    loss.backward()
    return loss.item()


@wrong("training_step", "raises", "does not require grad")
def step_of_detached_logits(model, optimizer, images, labels):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images).detach(), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def _step(criterion, mode=True):
    def step(model, optimizer, images, labels):
        model.train(mode)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@wrong("training_step", "returns nothing", "return")
def step_returns_nothing(model, optimizer, images, labels):
    step_as_in_the_book(model, optimizer, images, labels)


@wrong("training_step", "wrong step", "the first is stem.weight")
def step_trains_the_head_alone(model, optimizer, images, labels):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    for name, p in model.named_parameters():
        if not name.startswith("head"):
            p.grad = None
    optimizer.step()
    return loss.item()


@wrong("training_step", "changes its input", "argument 3")
def step_normalises_in_place(model, optimizer, images, labels):
    images -= images.mean()
    return step_as_in_the_book(model, optimizer, images, labels)
