"""What a gate on every head would do to the loss: one forward and one backward pass a batch.

Images do not see each other, so the gradient of the summed loss is every image's own; its
absolute value is taken before anything is averaged. Source: Michel et al. 2019.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from precompute.anatomy import Anatomy, Model
from precompute.readout import Classes, Classifier, Images
from precompute.sweep import gated

Gradients = list[Float[Tensor, "image head"]]


@torch.enable_grad()
def gate_gradients(model: Model, anatomy: Anatomy, pixels: Float[Tensor, "image channel y x"],
                   classifier: Classifier, labels: Classes, images: Images) -> Gradients:
    """dL/dg of a gate g = 1 on each head, layer by layer: L is the cross-entropy of the image's
    label, of the predicted class where the label is -1. NaN without a classifier."""
    gates = [torch.ones(len(pixels), heads, device=pixels.device, requires_grad=True)
             for heads in anatomy.heads]
    with ExitStack() as stack:
        for layer, gate in zip(anatomy.layers, gates, strict=True):
            shares = gate.split([a.heads for a in layer.attentions], dim=-1)
            for attention, share in zip(layer.attentions, shares, strict=True):
                stack.callback(attention.site.register_forward_pre_hook(
                    lambda _m, args, a=attention, g=share: (gated(a, args[0], g),)).remove)
        features = model.forward_features(pixels)
    embedding = model.forward_head(features, pre_logits=True)
    logits = classifier.logits(features[None], embedding[None], images)
    if logits is None:
        return [torch.full_like(gate, torch.nan).detach() for gate in gates]
    predicted = logits[0].argmax(-1)
    loss = F.cross_entropy(logits[0], torch.where(labels >= 0, labels, predicted), reduction="sum")
    return list(torch.autograd.grad(loss, gates))
