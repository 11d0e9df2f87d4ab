"""Reading a learner's module: which of its parameters plays which part of ours.

Names, layers and the order of registration are the learner's own business. What is compared is
the order in which the forward pass uses parameters of the same sizes: the first matrix of S and
D_S that is used is the first layer of the first token-mixing MLP, whatever it is called and
however it is turned.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mixer_lite.check.engine.trial import Trial
from mixer_lite.model import MlpMixer

Key = tuple[int, ...]


def draw_sizes(t: Trial, num_blocks: int) -> dict[str, Any]:
    """Arguments of a small Mixer in which no two sizes are alike, whatever they are sizes of."""
    p = t.random.choice((2, 4))
    gh, gw = t.random.choice([(2, 3), (3, 2), (2, 4), (4, 2), (3, 5), (5, 3)])
    gh, gw = t.sides(gh, gw)
    taken = {3 * p * p, gh * gw}
    c, d_s, d_c, k = t.random.sample([n for n in range(5, 15) if n not in taken], 4)
    return dict(
        image_size=(gh * p, gw * p),
        patch_size=p,
        num_classes=k,
        num_blocks=num_blocks,
        hidden_dim=c,
        tokens_mlp_dim=d_s,
        channels_mlp_dim=d_c,
    )


def small_mixer(t: Trial, num_blocks: int, before_head: nn.Module | None = None) -> MlpMixer:
    """A shaken Mixer of random sizes, all different, with one more layer before its head."""
    model = MlpMixer(**draw_sizes(t, num_blocks))
    shake(model, t.generator)
    if before_head is not None:
        model.add_module("head", nn.Sequential(before_head, model.head))
    return model


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


class _Watch(TorchFunctionMode):
    # Sees every tensor that goes into a function of torch.

    def __init__(self, names: dict[int, str], known: list[Tensor]):
        super().__init__()
        self.names = names
        self.used: list[str] = []
        self.strangers: list[Tensor] = []
        self.kept = known  # alive, so that no id is given twice
        self.known = {id(tensor) for tensor in known}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for tensor in _tensors([args, kwargs]):
            name = self.names.get(id(tensor))
            if name is not None:
                if name not in self.used:
                    self.used.append(name)
            elif id(tensor) not in self.known or isinstance(tensor, nn.Parameter):
                if tensor.is_floating_point() and not any(tensor is s for s in self.strangers):
                    self.strangers.append(tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self.kept.append(tensor)
            self.known.add(id(tensor))
        return result


def watch(
    module: nn.Module, run: Callable[[], Any], *inputs: Tensor
) -> tuple[list[str], list[Key]]:
    """Which parameters a forward pass uses, in the order of their first use.

    Args:
        module: theirs or ours.
        run: runs the forward pass.
        inputs: what it is fed.

    Returns:
        The names of the used parameters (of all, where nothing can be seen, as in a compiled
        module), and the shapes of tensors that were used but are neither parameters nor buffers
        of the module nor calculated from anything: layers that it does not list.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    with _Watch(names, [*inputs, *module.buffers()]) as seen:
        run()
    strangers = [tuple(s.shape) for s in seen.strangers if s.numel() > 1]
    return seen.used or list(names.values()), strangers


def shake(module: nn.Module, generator: torch.Generator) -> None:
    """Random values into every parameter: fresh norms are all alike, a fresh head may be zero."""
    with torch.no_grad():
        for p in module.parameters():
            drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            wide = sum(n > 1 for n in p.shape) > 1
            p.copy_(drawn / p.numel() ** 0.25 if wide else 0.5 + 0.7 * drawn)


def key(shape: Sequence[int], kernel: Sequence[int] = ()) -> Key:
    """The sizes of a parameter without order; a convolution kernel's as those of its matrix."""
    sizes = tuple(sorted(n for n in shape if n > 1))
    if kernel and sizes == tuple(sorted(kernel)):
        d, c, p, q = kernel
        sizes = tuple(sorted((d, c * p * q)))
    return sizes


def count(
    parameters: Mapping[str, Tensor], names: Sequence[str], kernel: Sequence[int] = ()
) -> Counter[Key]:
    """How many of these parameters there are of each sizes."""
    return Counter(key(parameters[name].shape, kernel) for name in names)


def forms(theirs: Tensor, shape: Sequence[int], kernel: Sequence[int] = ()) -> list[Tensor]:
    """All ways to read a parameter of theirs as one of ours; views of it where that is possible.

    The pixels of a patch may stand in any order: (c p q) first, then (p q c).

    Args:
        theirs: of the same :func:`key`.
        shape: of ours.
        kernel: ``(d, c, p, q)``, the sizes of the stem's kernel, if ours may be the stem.
    """
    theirs = theirs.squeeze()
    if theirs.ndim != len(shape):  # a kernel where ours is a matrix
        turns = (theirs.permute(turn) for turn in itertools.permutations(range(theirs.ndim)))
        return [t.reshape(tuple(shape)) for t in turns if tuple(t.shape) == tuple(kernel)]
    if tuple(theirs.shape) != tuple(shape):
        turns = (theirs.permute(turn) for turn in itertools.permutations(range(theirs.ndim)))
        theirs = next(t for t in turns if tuple(t.shape) == tuple(shape))
    if not kernel or tuple(shape) != (kernel[0], kernel[1] * kernel[2] * kernel[3]):
        return [theirs]
    d, *pixel = kernel
    orders = [(0, 1, 2), (1, 2, 0), (0, 2, 1), (2, 1, 0), (1, 0, 2), (2, 0, 1)]
    found = []
    for order in orders:  # their vector has the axes pixel[order[0]], pixel[order[1]], ...
        axes = theirs.reshape(d, *(pixel[i] for i in order))
        back = [order.index(i) + 1 for i in range(3)]
        found.append(axes.permute(0, *back).reshape(d, -1) if order != (0, 1, 2) else theirs)
    return found


def readings(
    theirs: Mapping[str, Tensor],
    their_order: Sequence[str],
    ours: Mapping[str, Tensor],
    our_order: Sequence[str],
    kernel: Sequence[int] = (),
    orders_of_pixels: int = 6,
) -> Iterator[dict[str, Tensor]]:
    """Our names -> their parameters, for each way to pair them; none if the sizes do not fit.

    Args:
        theirs, ours: the parameters by name.
        their_order, our_order: those that are used, in the order of use.
        kernel: sizes of the stem's kernel ``(d, c, p, q)``, for models with a stem.
        orders_of_pixels: so many of the orders of a patch's pixels are tried.
    """
    if count(theirs, their_order, kernel) != count(ours, our_order, kernel):
        return
    registered = [name for name in theirs if name in set(their_order)]
    ours_registered = [name for name in ours if name in set(our_order)]
    pairs = [
        (their_order, our_order),
        (their_order, _shift_first(our_order)),
        (registered, ours_registered),
    ]
    tried: list[dict[str, str]] = []
    for left, right in pairs:
        queues: dict[Key, list[str]] = {}
        for name in left:
            queues.setdefault(key(theirs[name].shape, kernel), []).append(name)
        pairing = {name: queues[key(ours[name].shape, kernel)].pop(0) for name in right}
        if pairing in tried:
            continue
        tried.append(pairing)
        choices = [
            forms(theirs[name].detach(), ours[our].shape, kernel)[:orders_of_pixels]
            for our, name in pairing.items()
        ]
        for chosen in itertools.product(*choices):
            yield dict(zip(pairing, chosen, strict=True))


def _shift_first(order: Sequence[str]) -> list[str]:
    # The same order, but each LayerNorm's shift used before its scale.
    turned = list(order)
    for i, (one, two) in enumerate(itertools.pairwise(order)):
        if "norm" in one and one.endswith("weight") and two == one[:-6] + "bias":
            turned[i], turned[i + 1] = two, one
    return turned
