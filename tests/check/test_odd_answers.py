"""Whatever an answer gives back, a check of lessons 1 to 3 says in one finding what is wrong."""

import numpy as np
import pytest
import torch

from mixer_lite import check
from tests.check import answers_images, answers_mixing  # noqa: F401  register right answers
from tests.check.zoo import ANSWERS

ODD = {
    "nothing": lambda: None,
    "text": lambda: "42",
    "list": lambda: [[1.0, 2.0], [3.0, 4.0]],
    "tuple": lambda: (torch.ones(2), torch.ones(2)),
    "array": lambda: np.ones((2, 3)),
    "empty": lambda: torch.empty(0),
    "scalar": lambda: torch.tensor(1.5),
    "whole numbers": lambda: torch.arange(3),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "without numbers": lambda: torch.empty(2, 3, device="meta"),
    "one without numbers": lambda: torch.empty(1, device="meta"),
    "not a number": lambda: torch.full((2, 3), torch.nan),
    "infinite": lambda: float("inf"),
    "huge": lambda: 10**400,
    "negative": lambda: -1,
    "truth": lambda: True,
    "half": lambda: torch.ones(2, 3, dtype=torch.float16),
}

CHECKS = (
    "patchify", "unpatchify", "patch_embedding", "embedding_kernel", "token_mixing",
    "channel_mixing", "layer_norm", "sublayer", "count_parameters", "count_macs",
)  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_results_are_named(name, odd):
    report = getattr(check, name)(lambda *args, **kwargs: ODD[odd](), seed=0)
    assert report.finding is not None
    assert report.finding.mistake != "not understood", str(report)
    assert report._repr_html_() and len(str(report)) < 3000


@pytest.mark.parametrize("name", CHECKS[:8])
@pytest.mark.parametrize("spoil", [torch.nan, torch.inf, 1e30])
def test_one_bad_number_is_seen(name, spoil):
    good = next(a.answer for a in ANSWERS if a.check == name and a.mistake is None)

    def spoilt(*args):
        out = good(*args).clone()
        out.view(-1)[-1] = spoil
        return out

    report = getattr(check, name)(spoilt, seed=0)
    assert report.finding.mistake in ("not finite", "wrong values"), str(report)
    assert "first difference at" in str(report)
