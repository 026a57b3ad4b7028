"""Several networks as one: its features are theirs side by side, its logits the mean of theirs.

So whatever takes features and a linear classifier (stage 2, calibration, export, serving) takes an ensemble unchanged.
B is the batch size, D the feature dimension of a member, M the number of members, K of classes.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tasks.backbones import timm_models

MEMBERS = "members."  # the prefix of the members' tensors in its state


def member_count(names: Iterable[str]) -> int:
    """The members of the ensemble whose state has these names; 0: it is a single network's."""
    return len({name.split(".")[1] for name in names if name.startswith(MEMBERS)})


def member_state(state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The tensors of member `number` (from 0), by their names in a network of its own; without its classifier's."""
    prefix = f"{MEMBERS}{number}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class Ensemble(nn.Module):
    """`members` without their classifiers, and one classifier (K, M * D) that gives the mean of their logits."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        lasts = [timm_models.classifier(member) for member in members]
        self.member_dim = lasts[0].in_features
        self.num_features = self.head_hidden_size = self.member_dim * len(members)
        self.classifier = joined(lasts)
        for member in members:
            member.reset_classifier(0)
        self.members = nn.ModuleList(members)
        info = getattr(members[0], "feature_info", None) or []  # Grad-CAM looks at the maps of the first member
        self.feature_info = [
            one | {"module": f"members.0.{one.get('module')}"} for one in info if isinstance(one, dict)
        ]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, M * D): pooled, because the maps of members have no common meaning."""
        return torch.cat([timm_models.features(member, x) for member in self.members], dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x if pre_logits else self.classifier(x)

    def get_classifier(self) -> nn.Linear:
        return self.classifier

    def reset_classifier(self, classes: int) -> None:
        """A new classifier for `classes` classes; none for 0."""
        self.classifier = nn.Linear(self.num_features, classes) if classes else nn.Identity()


def joined(lasts: Sequence[nn.Linear]) -> nn.Linear:
    """A layer on the inputs of `lasts` side by side that gives the mean of their results."""
    last = nn.Linear(sum(one.in_features for one in lasts), lasts[0].out_features, bias=lasts[0].bias is not None)
    with torch.no_grad():
        last.weight.copy_(torch.cat([one.weight for one in lasts], dim=1) / len(lasts))
        if last.bias is not None:
            last.bias.copy_(torch.stack([one.bias for one in lasts]).mean(dim=0))
    return last
