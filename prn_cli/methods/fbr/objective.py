"""FBR: queries of the foreground towards their class's prototype, away from clusters of background (arXiv 2406.15755).

A query q has a positive p and negatives n; its loss is

    -log( e^(cos(q, p) / τ) / (e^(cos(q, p) / τ) + Σ_n e^(cos(q, n) / τ)) )

FB: negatives are negative regions of interest (NROI), clusters of background features, from a bank. IF: negatives are
features of other classes, a class drawn the likelier the more its prototype is like the query's. Cosines are over the
feature axis. Gradients flow through the queries; prototypes, negatives and the bank are constants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prn_cli.methods import recipe_of
from prn_cli.methods.fbr.options import FbrOptions
from prn_cli.methods.objective import Objective
from prn_cli.methods.recipe import Batch, Outputs

_SIDE = 32  # cells of a crop: of finer features, averages
_STEPS = 10  # of K-means
_CLUSTERED = 1024  # features of a crop, drawn at random; more only if more clusters are asked for
_POOL = 4096  # of the bank in a step, drawn at random


class Members(NamedTuple):
    """What a batch has of a class.

    Attributes:
        features: `(n, D)`, of unit length.
        confidence: `(n,)`, the probability of the class.
        prototype: `(D,)`.
    """

    features: Tensor
    confidence: Tensor
    prototype: Tensor


class FbrObjective(Objective):
    """Contrasts in the features of any network that has some.

    A crop is of one class, its plane's, or of all at once; a cell of the features is foreground of a class, or
    background, if more than half of its pixels are. Cells whose features are not finite are left out. The background of
    a crop of all classes is that of one of them, drawn at random.
    """

    needs_features = True
    bank: Tensor
    filled: Tensor
    place: Tensor

    def __init__(self, options: FbrOptions, network: Any) -> None:
        super().__init__()
        self.options = options
        channels, width = recipe_of(network.name).feature_channels(network), options.contrast_width
        self.foreground = nn.Conv2d(channels, width, 1, bias=False)
        self.background = nn.Conv2d(channels, width, 1, bias=False)
        self.register_buffer("bank", torch.zeros(options.bank, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: Outputs, batch: Batch[Tensor]) -> Tensor:
        """The weighted sum of FB, IF and the likeness of the heads."""
        assert outputs.features is not None
        with torch.autocast(outputs.features.device.type, enabled=False):
            return self._loss(outputs.features.float(), outputs.paths[-1].detach().float(), batch)

    def _loss(self, features: Tensor, logits: Tensor, batch: Batch[Tensor]) -> Tensor:
        options = self.options
        step = -(-max(features.shape[2:]) // _SIDE)
        if step > 1:
            features = F.avg_pool2d(features, step, ceil_mode=True)
        size = features.shape[2], features.shape[3]
        finite = features.isfinite().all(1)
        clean = torch.where(finite[:, None], features, 0.0)
        front, back = (
            F.normalize(F.relu(head(clean)), dim=1).permute(0, 2, 3, 1) for head in (self.foreground, self.background)
        )
        likeness = (front * back).sum(-1)[finite].sum() / finite.sum().clamp_min(1)
        confidence = F.adaptive_avg_pool2d(torch.sigmoid(logits.nan_to_num(0.0)), size)
        objects, rest = ((_share(batch.label == side, size) > 0.5) & finite[:, None] for side in (1, 0))
        crops, at_once = objects.shape[:2]
        for one, there in zip(back.detach(), rest, strict=True):
            drawn = int(torch.randint(at_once, ())) if at_once > 1 else 0
            self.remember(cluster(one[there[drawn]], options.regions))
        first = objects.new_zeros(crops, dtype=torch.int64) if batch.plane is None else batch.plane
        planes = first[:, None] + torch.arange(at_once, device=first.device)
        least = max(int(options.prototype * size[0] * size[1]), 1)
        classes = []
        for number in sorted(set(planes.flatten().tolist())):
            inside = objects & (planes == number)[:, :, None, None]
            if inside.any():
                found, sure = front[inside.any(dim=1)], confidence[inside]
                classes.append(Members(found, sure, prototype(found.detach(), sure, least)))
        loss = options.separation_weight * likeness
        if classes and int(self.filled):
            pool = self._pool()
            losses = [self._against_background(members, pool) for members in classes]
            loss = loss + options.fb_weight * torch.stack(losses).mean()
        if len(classes) > 1:
            losses = [self._against_classes(classes, number) for number in range(len(classes))]
            loss = loss + options.if_weight * torch.stack(losses).mean()
        return loss

    def remember(self, clusters: Tensor) -> None:
        """Put clusters, `(n, D)`, into the bank, over the oldest."""
        clusters = clusters[-len(self.bank) :]
        places = (self.place + torch.arange(len(clusters), device=self.bank.device)) % len(self.bank)
        self.bank[places] = clusters
        self.place.copy_((self.place + len(clusters)) % len(self.bank))
        self.filled.copy_((self.filled + len(clusters)).clamp(max=len(self.bank)))

    def _queries(self, members: Members) -> Tensor:
        options = self.options
        hard = members.features[find_hard(members.confidence, confident=options.confident, certain=options.certain)]
        return hard[torch.randperm(len(hard), device=hard.device)[: options.queries]]

    def _against_background(self, members: Members, pool: Tensor) -> Tensor:
        queries = self._queries(members)
        drawn = torch.randint(len(pool), (len(queries), self.options.negatives), device=queries.device)
        return contrast(queries, members.prototype, pool, drawn, temperature=self.options.temperature)

    def _pool(self) -> Tensor:
        """What the negatives of a step are drawn from: the bank, or so much of it as is quick to compare with."""
        filled = int(self.filled)
        if filled <= _POOL:
            return self.bank[:filled]
        return self.bank[torch.randint(filled, (_POOL,), device=self.bank.device)]

    def _against_classes(self, classes: list[Members], number: int) -> Tensor:
        """Active sampling: the class of a negative is drawn first, then one of its features."""
        options, own = self.options, classes[number]
        others = [members for other, members in enumerate(classes) if other != number]
        queries = self._queries(own)
        shape = len(queries), options.negatives
        if not len(queries):
            return queries.sum()
        likeness = F.cosine_similarity(own.prototype, torch.stack([m.prototype for m in others]), dim=-1)
        chances = torch.softmax(likeness / options.class_temperature, 0)
        of_class = torch.multinomial(chances, shape[0] * shape[1], replacement=True).reshape(shape)
        counts = torch.tensor([len(m.features) for m in others], device=queries.device)
        first = counts.cumsum(0) - counts
        within = (torch.rand(shape, device=queries.device) * counts[of_class]).long()
        every = torch.cat([m.features for m in others]).detach()
        drawn = first[of_class] + within
        return contrast(queries, own.prototype, every, drawn, temperature=options.temperature)


def contrast(queries: Tensor, positive: Tensor, pool: Tensor, drawn: Tensor, *, temperature: float) -> Tensor:
    """The mean loss of queries, see above; 0 without queries.

    Args:
        queries: `(n, D)`.
        positive: `(D,)`.
        pool: `(m, D)`, what negatives are taken from.
        drawn: `(n, K)`, which of them each query has.
        temperature: τ.
    """
    unit = F.normalize(queries, dim=-1)
    towards = unit @ F.normalize(positive, dim=0)
    away = (unit @ F.normalize(pool, dim=-1).T).gather(1, drawn)
    scores = torch.cat([towards[:, None], away], 1) / temperature
    first = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    return F.cross_entropy(scores, first, reduction="sum") / max(len(scores), 1)


def find_hard(confidence: Tensor, *, confident: float, certain: float) -> Tensor:
    """`(n,)` booleans: which members of a class are neither among its most confident nor of least entropy."""
    p = confidence.clamp(1e-6, 1 - 1e-6)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    return (confidence <= confidence.quantile(1 - confident)) & (entropy >= entropy.quantile(certain))


def prototype(features: Tensor, confidence: Tensor, count: int) -> Tensor:
    """`(D,)`: the mean of the `count` most confident features, weighted by their confidence."""
    weights, chosen = confidence.topk(min(count, len(confidence)))
    return (weights[:, None] * features[chosen]).sum(0) / weights.sum().clamp_min(1e-12)


def cluster(features: Tensor, count: int) -> Tensor:
    """Centres of K-means, `(count, D)`, of features `(n, D)`; the features themselves if there are no more."""
    if len(features) <= count:
        return features
    features = features[torch.randperm(len(features), device=features.device)[: max(_CLUSTERED, count)]]
    centres = features[:count].clone()
    for _ in range(_STEPS):
        nearest = torch.cdist(features, centres).argmin(1)
        members = F.one_hot(nearest, count).to(features.dtype)
        sizes = members.sum(0)[:, None]
        centres = torch.where(sizes > 0, members.T @ features / sizes.clamp_min(1), centres)
    return centres


def _share(there: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, P, H, W) booleans → (N, P, h, w), the share of each cell."""
    return F.adaptive_avg_pool2d(there.float(), size)
