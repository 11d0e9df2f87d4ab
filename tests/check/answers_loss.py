"""Lesson 7: a loss of one's own, right and wrong."""

import torch
import torch.nn.functional as F

from tests.check.zoo import right, wrong


@right("cross_entropy")
def loss_by_logsumexp(logits, labels):
    own = logits.gather(1, labels[:, None])[:, 0]
    return (torch.logsumexp(logits, dim=1) - own).mean()


@right("cross_entropy")
def loss_by_log_softmax(logits, labels):
    return -F.log_softmax(logits, dim=-1)[range(len(labels)), labels].mean()


@right("cross_entropy")
def loss_by_hand(logits, labels):
    e = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
    p = e / e.sum(dim=1, keepdim=True)
    hot = F.one_hot(labels, logits.shape[1])
    return -(hot * torch.log(p + 1e-9)).sum() / logits.shape[0]


@right("cross_entropy")
def loss_in_a_loop(logits, labels):
    losses = []
    for x, y in zip(logits, labels, strict=True):
        losses.append(torch.log(torch.exp(x).sum()) - x[y])
    return torch.stack(losses).mean()


@wrong("cross_entropy", "softmax over everything", "whole table")
def loss_with_one_sum(logits, labels):
    e = torch.exp(logits)
    return -torch.log((e / e.sum())[range(len(labels)), labels]).mean()


@wrong("cross_entropy", "a number for a tensor", ".item()")
def loss_as_a_number(logits, labels):
    return F.cross_entropy(logits, labels).item()


@wrong("cross_entropy", "no gradient", "detach()")
def loss_detached(logits, labels):
    return F.cross_entropy(logits.detach(), labels)


@wrong("cross_entropy", "wrong gradient", "detached")
def loss_half_detached(logits, labels):
    log_sum = torch.logsumexp(logits, 1).detach()
    return (log_sum - logits.gather(1, labels[:, None])[:, 0]).mean()


@wrong("cross_entropy", "sign", "wrong sign")
def loss_without_minus(logits, labels):
    return F.log_softmax(logits, 1)[range(len(labels)), labels].mean()


@wrong("cross_entropy", "not reduced", "for each image")
def loss_of_each(logits, labels):
    return -F.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]


@wrong("cross_entropy", "every class counts", "all classes")
def loss_of_all_classes(logits, labels):
    return -F.log_softmax(logits, 1).sum() / len(labels)
