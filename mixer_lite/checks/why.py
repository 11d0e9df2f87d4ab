"""Checks of lesson 6: why this prediction."""

from __future__ import annotations

from typing import Any, cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from mixer_lite import explain
from mixer_lite.checks.trial import Suspect, Trial, exercise, fail, nearly_equal
from mixer_lite.model import MlpMixer, mixer_blocks

LESSON = "6 Why this prediction"


@torch.no_grad()
def _mixer(t: Trial) -> MlpMixer:
    # A small model with every parameter random and no two sizes alike.
    gh, gw, p, c = t.random.choice([(2, 3, 4, 5), (3, 2, 5, 4), (2, 4, 3, 5), (4, 2, 3, 7)])
    wide = t.random.sample([n for n in range(9, 16) if n != gh * gw], 3)
    model = MlpMixer(
        image_size=(gh * p, gw * p),
        patch_size=p,
        num_classes=wide[0],
        num_blocks=t.random.choice((2, 3)),
        hidden_dim=c,
        tokens_mlp_dim=wide[1],
        channels_mlp_dim=wide[2],
        in_channels=2,
    )
    for name, value in model.named_parameters():
        scale = value.shape[1] ** -0.5 if value.ndim == 2 else 0.5
        value.copy_(t.randn(*value.shape) * scale + (".norm" in f".{name}" and "weight" in name))
    return model.eval()


def _image(t: Trial, model: MlpMixer, count: int = 1) -> Tensor:
    return t.randn(count, model.in_channels, *model.image_size)


def _head(model: MlpMixer) -> nn.Linear:
    return cast(nn.Linear, model.head)


def _sizes(model: MlpMixer) -> str:
    gh, gw = model.grid_size
    return (
        f"a model of {model.num_blocks} blocks, {gh} rows of {gw} patches, {model.hidden_dim} "
        f"channels and {model.num_classes} classes"
    )


# Evidence


@exercise(
    lesson=LESSON,
    takes="patch_evidence(model, image)",
    hints=(
        "After the last norm come two linear steps: the mean over tokens and the head. Linear "
        "steps may change places. What would the head say to one token alone?",
        "`model.forward_features(image)` gives the tokens after the final norm, (1, S, C). One "
        "matrix product with the head's weights makes a number for each token and class.",
        "Leave the bias out: it belongs to no patch. Then fold the axis of tokens to the grid, "
        "(gh gw), and put the classes first. The mean of a map plus its bias is the logit.",
    ),
)
def patch_evidence(t: Trial, answer: Any) -> None:
    """``patch_evidence(model, image (1, c, h, w)) -> (K, gh, gw)``.

    What each patch says for each class: the mean of a class's map plus its bias is its logit.
    """
    for _ in range(t.rounds):
        model = _mixer(t)
        image = _image(t, model)
        got = t.call(answer, model, image)
        with torch.no_grad():
            want, logits = explain.patch_evidence(model, image), model(image)[0]
            evidence = [_sizes(model)]
            if isinstance(got, Tensor) and got.shape == want.shape and got.is_floating_point():
                whole = float(got.detach()[0].mean() + _head(model).bias[0])
                evidence.append(
                    f"class 0: the mean of your map plus the bias is {whole:.4g}, and the model's "
                    f"logit {float(logits[0]):.4g}"
                )
            suspects = _other_evidence(model, image, want, logits)
            t.same(got, want, "the evidence", "(K, gh, gw)", suspects, *evidence)


def _other_evidence(model: MlpMixer, image: Tensor, want: Tensor, logits: Tensor) -> list[Suspect]:
    gh, gw = model.grid_size
    weight, bias = _head(model).weight, _head(model).bias
    stem = model.stem(model.patchify(image))  # (1, S, C)
    last = model.blocks(stem)
    normed = model.norm(last)

    def fold(evidence: Tensor, pattern: str = "1 (gh gw) k -> k gh gw") -> Tensor:
        return rearrange(evidence, pattern, gh=gh)

    def every(values: Tensor) -> Tensor:
        return values[:, None, None].expand_as(want)

    def by_gradient() -> Tensor:
        x = image.clone().requires_grad_()
        with torch.enable_grad():
            out = model(x)[0]
            rows = [torch.autograd.grad(v, x, retain_graph=True)[0] * x for v in out]
        p = model.patch_size
        return reduce(torch.cat(rows).detach(), "k c (gh a) (gw b) -> k gh gw", "sum", a=p, b=p)

    def by_occlusion() -> Tensor:
        return torch.stack([explain.occlusion(model, image, k) for k in range(len(want))])

    rows: list[tuple[str, Any, str]] = [
        (
            "bias in every patch",
            want + bias[:, None, None],
            "You added the head's bias to every patch. The mean of your map is then the whole "
            "logit: also true, but the course keeps the bias apart, since it is there before any "
            "patch has said a word. Use the head's weights alone.",
        ),
        (
            "sum for mean",
            want / want[0].numel(),
            "Your maps *add up* to the logit (less the bias); evidence is what the head would say "
            "to one token, so that the *mean* of the map is. Do not divide by S.",
        ),
        (
            "sum for mean",
            (want + bias[:, None, None]) / want[0].numel(),
            "You divided by S and spread the bias. Evidence is what the head's weights say to one "
            "token, undivided and without bias.",
        ),
        (
            "final norm forgotten",
            lambda: fold(last @ weight.T),
            "You gave the head the tokens as the last block left them: the final norm comes first. "
            "forward_features ends with it.",
        ),
        (
            "final norm forgotten",
            lambda: fold(model.head(last)),
            "You gave the head the tokens as the last block left them: the final norm comes first, "
            "and the bias belongs to no patch.",
        ),
        (
            "pooled first",
            every(want.mean(dim=(1, 2))),
            "Every patch of your map says the same: you took the mean over tokens before the head, "
            "and then spread the answer. Give the head one token at a time.",
        ),
        (
            "pooled first",
            every(logits),
            "Every patch of your map holds the logit: you took the mean over tokens before the "
            "head. Give the head one token at a time.",
        ),
        (
            "column-major folding",
            lambda: rearrange(normed @ weight.T, "1 (gw gh) k -> k gh gw", gh=gh),
            "You fold down the columns of the grid, (gw gh); tokens run along its rows: (gh gw).",
        ),
        (
            "maps transposed",
            want.transpose(1, 2),
            "Each map is transposed: rows of your map are columns of the grid.",
        ),
        (
            "classes last",
            rearrange(want, "k gh gw -> gh gw k"),
            "The numbers are right, but the classes are the last axis: put them first.",
        ),
        (
            "not folded",
            want.flatten(1),
            f"Each class's evidence is still a row of S numbers: fold it to {gh} rows of {gw}.",
        ),
        (
            "not folded",
            want.flatten(1).T,
            f"This is the table (S, K): put the classes first and fold S to {gh} rows of {gw}.",
        ),
        (
            "reshape for rearrange",
            want.flatten(1).T.reshape(want.shape),
            "You cut the table (S, K) into maps without moving any number, so that each map mixes "
            "classes. Move the axis of classes to the front first.",
        ),
        (
            "one class only",
            want[logits.argmax()],
            f"This is the map of the answer alone: give all {len(want)} classes.",
        ),
        (
            "softmax over classes",
            want.softmax(dim=0),
            "You made probabilities of each patch's evidence. Softmax is not linear: the means of "
            "your maps have nothing to do with the logits any more.",
        ),
        (
            "softmax over classes",
            (want + bias[:, None, None]).softmax(dim=0),
            "You made probabilities of each patch's logits. Softmax is not linear: the means of "
            "your maps have nothing to do with the logits any more.",
        ),
        (
            "softmax over patches",
            want.flatten(1).softmax(dim=1).view_as(want),
            "You turned each map into shares by softmax; evidence has signs, and its mean counts.",
        ),
        (
            "only what speaks for it",
            want.clamp_min(0),
            "You cut off what is below zero: patches that speak against a class are half of the "
            "story, and without them the mean is not the logit.",
        ),
        (
            "rescaled",
            want / want.abs().amax(dim=(1, 2), keepdim=True),
            "You brought each map to a scale of its own: then its mean is not the logit.",
        ),
        (
            "mean taken away",
            want - want.mean(dim=(1, 2), keepdim=True),
            "You subtracted each map's mean, which is the very thing that makes the logit.",
        ),
        (
            "blocks left out",
            lambda: fold(model.norm(stem) @ weight.T),
            "You took the tokens before the first block: run the blocks first.",
        ),
        (
            "last block left out",
            lambda: fold(model.norm(nn.Sequential(*mixer_blocks(model)[:-1])(stem)) @ weight.T),
            "You took the tokens before the last block.",
        ),
        (
            "normed twice",
            lambda: fold(model.norm(normed) @ weight.T),
            "You normalised twice: forward_features ends with the final norm already.",
        ),
        (
            "gradient times input",
            by_gradient,
            "This is gradient times input, summed over each patch's pixels: what pixels cause, to "
            "first order, and an approximation. Evidence is exact: the head's weights times each "
            "token.",
        ),
        (
            "occlusion",
            by_occlusion,
            "This is how far the logit falls when a patch is covered: another question, what its "
            "pixels cause. Evidence is what is said at its place: the head's weights times tokens.",
        ),
    ]
    return [Suspect(*row) for row in rows]


# Depth


@exercise(
    lesson=LESSON,
    takes="depth_lens(model, image)",
    hints=(
        "Every block hands on a table of one shape, so norm, mean and head can follow any of them. "
        "How many tables are there, the one before block 0 included?",
        "Start with `model.stem(model.patchify(image))`; read it; then for each block: let it "
        "change the table, and read again. Reading must not change the table.",
        "To read: `model.norm`, the mean over tokens, `model.head`. Collect the rows and stack "
        "them. The last row must be `model(image)[0]`.",
    ),
)
def depth_lens(t: Trial, answer: Any) -> None:
    """``depth_lens(model, image (1, c, h, w)) -> (num_blocks + 1, K)``.

    Row n: final norm, mean over tokens and head, right after n blocks; the last row is the
    model's own logits.
    """
    for _ in range(t.rounds):
        model = _mixer(t)
        image = _image(t, model)
        got = t.call(answer, model, image)
        with torch.no_grad():
            want = explain.prediction_by_depth(model, image)
            evidence = [_sizes(model)]
            if isinstance(got, Tensor) and got.shape == want.shape and got.is_floating_point():
                gaps = (got.detach().double() - want.double()).abs().amax(dim=1)
                wrong = (~(gaps <= 1e-4 * float(want.abs().max()))).nonzero().flatten().tolist()
                evidence.append(f"rows that are wrong: {', '.join(map(str, wrong))}")
            suspects = _other_depths(model, image, want)
            form = "(num_blocks + 1, K)"
            t.same(got, want, "the logits by depth", form, suspects, *evidence)


def _other_depths(model: MlpMixer, image: Tensor, want: Tensor) -> list[Suspect]:
    stem = model.stem(model.patchify(image))  # (1, S, C)
    tables = [stem]
    for block in mixer_blocks(model):
        tables.append(block(tables[-1]))

    def mean(x: Tensor) -> Tensor:
        return x.mean(dim=1)

    def read(x: Tensor) -> Tensor:
        return model.head(mean(model.norm(x)))

    def rows(how: Any, over: Any = None) -> Tensor:
        return torch.cat([how(x) for x in (tables if over is None else over)])

    def norm_handed_on() -> list[Tensor]:
        x, found = model.norm(stem), [stem]
        for block in mixer_blocks(model):
            x = block(x)
            found.append(x)
            x = model.norm(x)
        return found

    logits = want[-1:]
    n = len(want)
    alone = [stem, *(block(stem) for block in mixer_blocks(model))]
    rest = [nn.Sequential(*mixer_blocks(model)[k:])(stem) for k in range(n)]
    backwards = [stem]
    for block in mixer_blocks(model)[::-1]:
        backwards.append(block(backwards[-1]))
    found: list[tuple[str, Any, str]] = [
        (
            "first row missing",
            want[1:],
            "Your first row comes after block 0. Row 0 is what can be read before any block, "
            "right after the stem.",
        ),
        (
            "last row missing",
            want[:-1],
            "Your last row comes before the last block: read once more after it. That row is the "
            "model's own answer.",
        ),
        ("last row only", logits, f"This is the model's own answer alone: give all {n} depths."),
        (
            "final norm forgotten",
            lambda: rows(lambda x: model.head(mean(x))),
            "You forgot the final norm: the head was trained to read normalised tokens, so that "
            "not even your last row is the model's answer.",
        ),
        (
            "norm after the mean",
            lambda: rows(lambda x: model.head(model.norm(mean(x)))),
            "You normalise the mean; the model normalises each token and then takes the mean.",
        ),
        (
            "norm handed on",
            lambda: rows(read, norm_handed_on()),
            "You hand the normalised table to the next block. The norm is for reading alone: keep "
            "the table as the block left it.",
        ),
        (
            "blocks not chained",
            lambda: rows(read, alone),
            "You give every block the stem's tokens. A block works on what the block before it "
            "left: x = block(x).",
        ),
        (
            "remaining blocks",
            lambda: rows(read, rest),
            "Row n of yours leaves out the *first* n blocks; wanted are the first n and nothing "
            "more.",
        ),
        (
            "blocks backwards",
            lambda: rows(read, backwards),
            "You run the blocks from last to first.",
        ),
        (
            "rows backwards",
            want.flip(0),
            "Your rows stand in reverse: row 0 is before any block, the last the model's answer.",
        ),
        (
            "all rows the same",
            logits.expand(n, -1),
            "All your rows are the model's final answer: the table is read after all blocks each "
            "time. Read it inside the loop.",
        ),
        (
            "first token only",
            lambda: rows(lambda x: model.head(model.norm(x)[:, 0])),
            "You read token 0 alone. A Mixer has no class token: it takes the mean over all.",
        ),
        (
            "last token only",
            lambda: rows(lambda x: model.head(model.norm(x)[:, -1])),
            "You read the last token alone; a Mixer takes the mean over all.",
        ),
        (
            "largest for mean",
            lambda: rows(lambda x: model.head(model.norm(x).amax(dim=1))),
            "You take the largest value over tokens where the model takes the mean.",
        ),
        (
            "sum for mean",
            lambda: rows(lambda x: model.head(model.norm(x).sum(dim=1))),
            "You add up the tokens where the model takes their mean.",
        ),
        (
            "probabilities, not logits",
            want.softmax(dim=1),
            "These are probabilities: leave the softmax out, the rows are logits.",
        ),
        (
            "probabilities, not logits",
            want.log_softmax(dim=1),
            "These are logarithms of probabilities: leave the softmax out, the rows are logits.",
        ),
        (
            "bias forgotten",
            want - _head(model).bias,
            "You used the head's weights without its bias.",
        ),
        ("axes swapped", want.T, "Your columns are depths; a row should be a depth."),
        (
            "one class only",
            want[:, logits[0].argmax()],
            "This is the final answer's logit alone: give all classes.",
        ),
        (
            "mean over channels",
            lambda: rows(lambda x: model.norm(x).mean(dim=2)),
            "You took the mean over channels; it is the tokens that are averaged, axis 1.",
        ),
    ]
    return [Suspect(*row) for row in found]


# Shuffles


def _shuffled(images: Tensor, order: Tensor, p: int) -> Tensor:
    cut = rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) c p1 p2", p1=p, p2=p)
    gh = images.shape[2] // p
    return rearrange(cut[:, order], "b (gh gw) c p1 p2 -> b c (gh p1) (gw p2)", gh=gh)


def _orders(t: Trial, n: int) -> Tensor:
    # A permutation that is not its own inverse, so that the two can be told apart.
    while True:
        order = torch.tensor(t.random.sample(range(n), n))
        if int((order.argsort() != order).sum()) > 2:
            return order


@exercise(
    lesson=LESSON,
    takes="shuffle_patches(images, order, patch_size)",
    hints=(
        "Three steps: cut the images into patches, pick the patches in the new order, glue them "
        "together again. Lesson 1 has the first and the last.",
        "Place k of the result gets patch order[k] of the original. Indexing does just that: "
        "`patches[:, order]`.",
        "The glue is the einops pattern of the cut with its two sides exchanged; it must be told "
        "how many rows the grid has. Pixels inside a patch do not move.",
    ),
)
def shuffle_patches(t: Trial, answer: Any) -> None:
    """``shuffle_patches(images (b, c, h, w), order (S,), patch_size) -> (b, c, h, w)``.

    Place k of each result gets patch order[k] of the original, places in reading order.
    """
    for _ in range(t.rounds):
        b, c, gh, gw, p = t.sizes(5, 2, 6)
        images, order = t.randn(b, c, gh * p, gw * p), _orders(t, gh * gw)
        got = t.call(answer, images, order, p)
        want = _shuffled(images, order, p)
        evidence = (
            f"images {tuple(images.shape)}, patch_size {p}: a grid of {gh} rows and {gw} columns",
        )
        if (
            isinstance(got, Tensor)
            and got.shape == want.shape
            and got.dtype.is_floating_point
            and not nearly_equal(got, want)
        ):
            _name_shuffle(images, got.detach(), order, p, evidence)
        suspects = _other_shuffles(images, order, p)
        t.same(got, want, "the shuffled images", "(b, c, h, w)", suspects, *evidence)


def _name_shuffle(
    images: Tensor, got: Tensor, order: Tensor, p: int, evidence: tuple[str, ...]
) -> None:
    # Which patch stands where, if the result is made of whole patches of its own image.
    cut, pattern = got.double(), "b c (gh p1) (gw p2) -> b (gh gw) (c p1 p2)"
    theirs = rearrange(cut, pattern, p1=p, p2=p)  # (b, S, c P P)
    source = rearrange(images.double(), pattern, p1=p, p2=p)
    distance, place = torch.cdist(theirs, source).min(dim=2)  # (b, S) each
    if not float(distance.max()) <= 1e-3:  # NaN too
        return
    rows = place.tolist()
    wanted = order.tolist()
    k = next((k for k, j in enumerate(rows[0]) if j != wanted[k]), 0)
    evidence = (
        *evidence,
        f"first image: place {k} has patch {rows[0][k]}; order[{k}] is {wanted[k]}",
    )
    if rows[0] == order.argsort().tolist():
        fail(
            "inverse order",
            "You move patch k to place order[k]; wanted is the other way round: place k gets patch "
            "order[k]. Index with order, do not assign to it.",
            *evidence,
        )
    if rows[0] == list(range(len(wanted))):
        fail("nothing moved", "Your images are as they were.", *evidence)
    if any(row != rows[0] for row in rows):
        fail(
            "each image its own order",
            "Your images are shuffled in different orders; the order given is for all of them.",
            *evidence,
        )
    gh, gw = images.shape[2] // p, images.shape[3] // p
    down = torch.arange(gh * gw).reshape(gw, gh).T.flatten()  # numbers down the columns
    back = down.argsort()  # place in reading order -> column-major
    if rows[0] in ([*back[order[down]].tolist()], [*down[order[back]].tolist()]):
        fail(
            "column-major tokens",
            "You number the patches down the columns of the grid, (gw gh); they are numbered along "
            "its rows, as one reads a page: (gh gw).",
            *evidence,
        )
    if rows[0] == rearrange(order, "(gw gh) -> (gh gw)", gh=gh).tolist():
        fail(
            "glued down the columns",
            "You cut along the rows of the grid and glue down its columns: (gh gw) both times.",
            *evidence,
        )
    if sorted(rows[0]) != list(range(len(wanted))):
        fail(
            "patches lost",
            "Some patches are there twice and others not at all. Do you write into the image that "
            "you still read from? Take the patches from the original.",
            *evidence,
        )
    fail(
        "another order",
        "The patches are whole, but in another order than the one given.",
        *evidence,
    )


def _other_shuffles(images: Tensor, order: Tensor, p: int) -> list[Suspect]:
    gh, gw = images.shape[2] // p, images.shape[3] // p
    cut = rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) c p1 p2", p1=p, p2=p)
    moved = cut[:, order]

    def glue(pattern: str, tokens: Tensor = moved) -> Tensor:
        left, right = pattern.split(" -> ")
        return rearrange(tokens, f"b {left} -> b {right}", gh=gh)

    inside = cut.flatten(3)  # (b, S, c, P P)
    pixels = order[order < p * p]
    rows: list[tuple[str, Any, str]] = [
        (
            "left in pieces",
            moved.flatten(2),
            "These are the shuffled patches, still cut: glue them together to images (b, c, h, w).",
        ),
        (
            "left in pieces",
            moved,
            "These are the shuffled patches, still cut: glue them together to images (b, c, h, w).",
        ),
        (
            "patches transposed",
            lambda: glue("(gh gw) c p2 p1 -> c (gh p1) (gw p2)"),
            "The patches are in the right places, but each is transposed: p1 and p2 are exchanged.",
        ),
        (
            "woven patches",
            lambda: glue("(gh gw) c p1 p2 -> c (p1 gh) (p2 gw)"),
            "You glue every patch's pixels far apart, like threads of a cloth: write (gh p1), not "
            "(p1 gh).",
        ),
        (
            "pixels, not patches",
            lambda: images.flatten(2)[:, :, order].reshape(images.shape),
            "You moved single pixels; whole patches should move.",
        ),
        (
            "pixels, not patches",
            lambda: glue(
                "(gh gw) c p1 p2 -> c (gh p1) (gw p2)", inside[..., pixels].reshape(cut.shape)
            ),
            "You moved the pixels inside each patch, and left the patches where they were.",
        ),
        (
            "reshape for rearrange",
            lambda: moved.reshape(images.shape),
            "You glued by reshape, which moves no number: rows of different patches have to be "
            "laid beside one another. Exchange the two sides of the cut's pattern.",
        ),
        (
            "reshape for rearrange",
            lambda: images.reshape(len(images), gh * gw, -1)[:, order].reshape(images.shape),
            "You cut and glued by reshape, which moves no number: your pieces are strips of the "
            "image, not patches.",
        ),
        (
            "images shuffled",
            lambda: images[order[order < len(images)]],
            "You changed the order of the images; patches move within each.",
        ),
    ]
    return [Suspect(*row) for row in rows]


# The twin


@exercise(
    lesson=LESSON,
    takes="reparametrise(model, order)",
    hints=(
        "Where in a Mixer does a place on the grid have weights of its own? Norms, channel mixing, "
        "the stem, the mean and the head treat all tokens alike.",
        "In the token-mixing MLPs of every block: W1 reads from places (its columns), W2 writes to "
        "places (its rows), and so does the bias of W2.",
        "Place k now holds patch order[k], so the new column k is the old column order[k]. Begin "
        "with `copy.deepcopy(model)`, and change the copy's weights under `torch.no_grad()`.",
    ),
)
def reparametrise(t: Trial, answer: Any) -> None:
    """``reparametrise(model, order (S,)) -> a new model``.

    ``new(shuffle_patches(images, order, patch_size))`` equals ``model(images)``, where place k of
    a shuffled image has patch order[k]. So do the tokens after the last block, in the new order.
    The model given stays as it is.
    """
    for _ in range(t.rounds):
        model = _mixer(t)
        order = _orders(t, model.num_tokens)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        new = t.call(answer, model, order, may_change=(model,))
        touched = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
        if touched:
            fail(
                "changed the original",
                f"The model that was given has changed ({touched[0]}): work on a copy, "
                f"copy.deepcopy(model).",
            )
        if new is None:
            fail("returns nothing", "Your code returned None: is there a `return`?")
        if not isinstance(new, MlpMixer):
            kind = type(new).__name__
            says = f"Your code should return a new MlpMixer, with moved weights, not {kind}."
            if isinstance(new, dict):
                says += " Load these weights into a copy of the model: load_state_dict."
            fail("not a model", says)
        images = _image(t, model, 3)
        moved = _shuffled(images, order, model.patch_size)
        with torch.no_grad():
            want = model(images)
            got = t.call(new, moved)
            if not isinstance(got, Tensor) or not nearly_equal(got, want):
                _name_weights(before, new, order, model)
            t.same(got, want, "the twin's logits on shuffled images", "(b, K)", [], _sizes(model))
            # The norms hide some of the truth: they remove what a bias of W2 adds to all channels
            # of a token alike. The tokens after the last block show it.
            tokens = model.blocks(model.stem(model.patchify(images)))[:, order]  # (b, S, C)
            after = new.blocks(new.stem(new.patchify(moved)))
            if not nearly_equal(after, tokens):
                _name_weights(before, new, order, model)
            t.same(after, tokens, "the twin's tokens after the last block", "(b, S, C)")


def _name_weights(before: dict[str, Tensor], new: MlpMixer, order: Tensor, old: MlpMixer) -> None:
    state = new.state_dict()
    if {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in before.items()}:
        fail("another model", "The new model is built otherwise; only its weights should move.")
    back = order.argsort()
    parts = {"W1": ("fc1.weight", 1), "W2": ("fc2.weight", 0), "the bias of W2": ("fc2.bias", 0)}
    seen: dict[str, list[str]] = {part: [] for part in parts}  # what was done, block by block
    for b in range(old.num_blocks):
        for part, (name, axis) in parts.items():
            key = f"blocks.{b}.mlp_tokens.{name}"
            ways = {
                "right": before[key].index_select(axis, order),
                "back": before[key].index_select(axis, back),
                "left": before[key],
            }
            same = [way for way, value in ways.items() if nearly_equal(state[key], value)]
            seen[part].append(same[0] if same else "other")
    others = [
        name
        for name, value in before.items()
        if not any(name.endswith(f"mlp_tokens.{end}") for end, _ in parts.values())
        and not nearly_equal(state[name], value)
    ]
    words = dict(right="moved", back="moved the other way", left="as it was", other="other numbers")
    evidence = [
        f"{part}: {', '.join(f'block {b} {words[way]}' for b, way in enumerate(ways))}"
        for part, ways in seen.items()
    ]
    if others:
        fail(
            "moved what knows no places",
            f"{others[0]} has changed. Only the token-mixing MLPs have weights for places: the "
            f"columns of W1, the rows of W2 and the bias of W2.",
            *evidence,
        )
    kinds = {part: set(ways) for part, ways in seen.items()}
    if all(kind == {"left"} for kind in kinds.values()):
        fail("nothing moved", "The new model's weights are those of the old one.", *evidence)
    if all(kind == {"back"} for kind in kinds.values()):
        fail(
            "inverse order",
            "You moved everything the other way. Place k of a shuffled image has patch order[k], "
            "so the new column k of W1 is the old column order[k]: weight[:, order].",
            *evidence,
        )
    by_block = [{ways[b] for ways in seen.values()} for b in range(old.num_blocks)]
    if {"right"} in by_block and {"left"} in by_block:
        fail(
            "not in every block",
            "Some blocks have their weights as they were: every block mixes tokens, so all of them "
            "must follow the shuffle.",
            *evidence,
        )
    left = [part for part, kind in kinds.items() if "left" in kind]
    if left == ["W2", "the bias of W2"]:
        fail(
            "only W1 moved",
            "You moved the columns of W1, so that the units read the right places; but they write "
            "to the old ones: the rows of W2 and its bias are places, too.",
            *evidence,
        )
    forgotten = {
        "W1": "W1 is as it was: its columns are the places that the units read.",
        "W2": "W2 is as it was: its rows are the places that the units write to.",
        "the bias of W2": "The bias of W2 is as it was: it holds a number for each place and has "
        "to follow. The logits do not show it, because it adds the same to all channels of a "
        "token, and the norms take that away; the tokens after the block do.",
    }
    for part in left:
        name = "bias" if "bias" in part else part
        fail(f"{name} forgotten", forgotten[part], *evidence)
    for part in [part for part, kind in kinds.items() if "back" in kind]:
        fail(
            f"{'bias' if 'bias' in part else part} moved the other way",
            f"{part[0].upper()}{part[1:]} follows the inverse order and the rest the "
            f"order itself: all three follow the same one.",
            *evidence,
        )
    for part in [part for part, kind in kinds.items() if "other" in kind]:
        fail(
            "other weights",
            f"{part[0].upper()}{part[1:]} holds neither its old numbers nor those in the new "
            f"order. Of W1 the columns move, weight[:, order]; of W2 the rows, weight[order].",
            *evidence,
        )
