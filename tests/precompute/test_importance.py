"""Importance measures against their formulas in NumPy, and direct logits against their sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from precompute.anatomy import dissect
from precompute.clean import clean_pass
from precompute.importance import IMPORTANCE, Clean, Outcome
from precompute.readout import Native, direct_logits, logit_directions
from store.schema import CLEAN_PASS
from store.schema import IMPORTANCE as COLUMNS
from tests.precompute.vits import tiny

HEADS, IMAGES, CLASSES = 3, 4, 5


def _outcome(labels=(2, 0, -1, 4), logits: bool = True, class_token: bool = True) -> Outcome:
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    clean = Clean(normal(IMAGES, 6), normal(IMAGES, CLASSES) * 3 if logits else None,
                  torch.tensor(labels), normal(IMAGES, 7, 6))
    return Outcome(clean, normal(HEADS, IMAGES, 6),
                   normal(HEADS, IMAGES, CLASSES) * 3 if logits else None,
                   normal(HEADS, IMAGES, 7, 6), class_token, 2)


def _by_formula(outcome: Outcome, head: int, image: int) -> dict[str, float]:
    before, after = (v.numpy() for v in (outcome.clean.logits[image],
                                         outcome.logits[head, image]))
    p, q = (np.exp(v) / np.exp(v).sum() for v in (before, after))
    m = (p + q) / 2
    c, label = p.argmax(), int(outcome.clean.labels[image])
    second = np.argsort(before)[-2]
    e, f = outcome.clean.embedding[image].numpy(), outcome.embedding[head, image].numpy()
    x, y = outcome.clean.block_output[image].numpy(), outcome.block_output[head, image].numpy()
    change = np.linalg.norm(y - x, axis=-1) / np.linalg.norm(x, axis=-1)
    nan = float("nan")
    return {
        "probability": q[c], "probability_drop": p[c] - q[c],
        "true_probability_drop": p[label] - q[label] if label >= 0 else nan,
        "loss_increase": np.log(p[label]) - np.log(q[label]) if label >= 0 else nan,
        "margin_drop": (before[c] - before[second]) - (after[c] - after[second]),
        "js_divergence": ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2,
        "flip": float(q.argmax() != c),
        "embedding_cosine": 1 - e @ f / np.linalg.norm(e) / np.linalg.norm(f),
        "embedding_l2": np.linalg.norm(f - e) / np.linalg.norm(e),
        "layer_cls_l2": change[0], "layer_patch_l2": change[2:].mean(),
    }


def test_measures_agree_with_their_formulas() -> None:
    outcome = _outcome()
    found = {name: measure(outcome) for name, measure in IMPORTANCE.items()}
    for head in range(HEADS):
        for image in range(IMAGES):
            for name, wanted in _by_formula(outcome, head, image).items():
                assert found[name][head, image].item() == pytest.approx(
                    wanted, rel=1e-9, abs=1e-12, nan_ok=True), name


NEEDS_CLASSIFIER = {"probability", "probability_drop", "true_probability_drop", "loss_increase",
                    "margin_drop", "js_divergence", "flip"}


@pytest.mark.parametrize(("outcome", "undefined"), [
    (_outcome(logits=False, labels=(-1,) * 4), NEEDS_CLASSIFIER),
    (_outcome(class_token=False), {"layer_cls_l2"}),
    (_outcome(labels=(-1,) * 4), {"true_probability_drop", "loss_increase"}),
    (_outcome(labels=(0, 1, 2, 3)), set())])
def test_what_is_undefined_is_nan(outcome: Outcome, undefined: set[str]) -> None:
    assert {name for name, m in IMPORTANCE.items() if m(outcome).isnan().all()} == undefined


def test_no_change_scores_zero() -> None:
    before = _outcome().clean
    same = Outcome(before, before.embedding.expand(HEADS, -1, -1),
                   before.logits.expand(HEADS, -1, -1),
                   before.block_output.expand(HEADS, -1, -1, -1), True, 2)
    for name, measure in IMPORTANCE.items():
        if name != "probability":
            assert measure(same).nan_to_num().abs().max() < 1e-12, name


def test_every_importance_column_has_its_function() -> None:
    assert set(IMPORTANCE) | CLEAN_PASS == {c.name for c in COLUMNS}


@pytest.mark.parametrize("options", [
    {}, dict(reg_tokens=2), dict(init_values=0.5), dict(img_size=(32, 40)),
    dict(class_token=False, global_pool="avg"), dict(global_pool="avg"),
    dict(class_token=False, global_pool="avg", fc_norm=False)], ids=str)
def test_direct_logits_add_up_to_the_logit(options: dict) -> None:
    """Embedding + heads + projection biases + MLPs + the readout's own constant = the logit."""
    model = tiny(**options).double()
    anatomy = dissect(model, "test", (3, *model.patch_embed.img_size))
    images = torch.randn(3, 3, *model.patch_embed.img_size, dtype=torch.float64)
    clean = clean_pass(model, anatomy, images)
    logits = model.forward_head(clean.features).detach()
    top = logits.argmax(-1)
    directions = logit_directions(model, anatomy, clean, Native(model).rows(top, torch.arange(3)))

    def along(change: torch.Tensor) -> torch.Tensor:
        return (directions * change.detach()).sum((1, 2))

    total = along(clean.calls[0].tokens)
    for layer, (block, call) in enumerate(zip(model.blocks, clean.calls, strict=True)):
        heads = direct_logits(anatomy, clean, layer, directions)
        assert heads.shape == (3, anatomy.heads[layer])
        added = block.ls1(block.attn.proj(call.heads))
        bias = block.ls1(block.attn.proj.bias.expand_as(added))
        total = total + heads.sum(1) + along(bias) + along(call.output - call.tokens - added)
    constant = logits[range(3), top] - along(clean.calls[-1].output)
    torch.testing.assert_close(total + constant, logits[range(3), top])
    # the constant really is one: it must not depend on what the tokens are along the direction
    nudged = clean.calls[-1].output + 1e-6 * directions
    frozen = along(nudged) - along(clean.calls[-1].output)
    true = _frozen_logit(model, clean.calls[-1].output, nudged, top) - logits[range(3), top]
    torch.testing.assert_close(frozen, true.detach(), rtol=1e-4, atol=1e-12)


def _frozen_logit(model, tokens: torch.Tensor, nudged: torch.Tensor, classes: torch.Tensor,
                  ) -> torch.Tensor:
    """The logit of nudged tokens with every norm's scale held at that of `tokens`."""
    def norm(module, inputs, scaled_like):
        if isinstance(module, torch.nn.Identity):
            return inputs
        scale = (scaled_like.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
        return (inputs - inputs.mean(-1, keepdim=True)) / scale * module.weight + module.bias

    before, after = norm(model.norm, tokens, tokens), norm(model.norm, nudged, tokens)
    before, after = model.pool(before), model.pool(after)
    return model.head(norm(model.fc_norm, after, before))[range(len(classes)), classes]


@pytest.mark.parametrize("options", [dict(class_token=False, global_pool="map"),
                                     dict(num_classes=0)], ids=str)
def test_direct_logits_are_undefined_where_the_readout_is_not_linear(options: dict) -> None:
    model = tiny(**options)
    anatomy = dissect(model, "test", (3, 32, 32))
    clean = clean_pass(model, anatomy, torch.randn(2, 3, 32, 32))
    rows = Native(model).rows(torch.zeros(2, dtype=torch.long), torch.arange(2))
    directions = logit_directions(model, anatomy, clean, rows)
    assert direct_logits(anatomy, clean, 0, directions) is None
