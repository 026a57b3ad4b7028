"""Give networks that were distilled with two classifiers one of them: DeiT, PiT, EfficientFormer.

Their published form averages the logits of `head` and `head_dist`. With one matrix for both, that average is the
classifier of the averaged features, which timm gives with `pre_logits=True`. So the second one goes, and the network
ends in one linear classifier as every other. Pretrained features stay the same; only the two 1,000-class layers go.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def with_one_head(model: "torch.nn.Module", classes: int) -> "torch.nn.Module":
    """`model` with one new classifier for `classes` (0: none) if it had two; any other model as it is."""
    if not isinstance(model.get_classifier(), tuple):
        return model
    import torch

    kind = type(model)

    class OneHead(kind):
        def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
            features = super().forward_head(x, pre_logits=True)
            return features if pre_logits else self.head(features)

        def get_classifier(self) -> torch.nn.Module:
            return self.head

        def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
            super().reset_classifier(num_classes, global_pool)
            self.head_dist = torch.nn.Identity()

    OneHead.__name__ = OneHead.__qualname__ = kind.__name__
    model.__class__ = OneHead
    model.reset_classifier(classes)
    return model
