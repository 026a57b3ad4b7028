"""A backbone that cannot be trained or exported is refused before anything is trained on it."""

import pytest
import torch

from tasks.backbones import onnx_graph, timm_models
from tasks.backbones.torchvision_ops import make_timm_importable
from tasks.common.errors import EvergreenError
from tasks.models.exportable import check_backbone

SIZE = 32


class Branching(torch.nn.Module):
    """A classifier that does something else with one image: an export of two images knows one way only."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 3, 1), torch.nn.Linear(3, classes)

    def get_classifier(self):
        return self.head

    def forward_features(self, x):
        x = self.conv(x)
        return x if len(x) > 1 else -2 * x

    def forward_head(self, x, pre_logits=False):
        x = x.mean((2, 3))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Untrainable(Branching):
    """Its gradient does not exist."""

    def forward_features(self, x):
        return self.conv(x).detach().requires_grad_(False)

    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x, pre_logits).detach()


@pytest.mark.parametrize(("network", "what"), [(Branching, "exported to ONNX"), (Untrainable, "trained")])
def test_what_cannot_be_trained_or_exported_is_refused_with_a_way_out(tmp_path, monkeypatch, network, what):
    monkeypatch.setattr(timm_models, "create_model", lambda *_: network(2).eval())
    with pytest.raises(EvergreenError, match=rf"some_net cannot be {what} at 32 x 32 .*tf_efficientnet_lite0"):
        check_backbone(tmp_path, "some_net", SIZE)
    assert not list(tmp_path.rglob("*.txt")), "a failure is not remembered: other libraries may repair it"


def test_a_backbone_that_passed_is_not_tried_again(tmp_path, monkeypatch):
    before = torch.get_rng_state()
    check_backbone(tmp_path, "test_convnext", SIZE)
    assert torch.equal(torch.get_rng_state(), before), "the training that follows draws the numbers that it always drew"
    monkeypatch.setattr("tasks.models.exportable.try_backbone", lambda *_: pytest.fail("tried again"))
    check_backbone(tmp_path, "test_convnext", SIZE)
    check_backbone(tmp_path, timm_models.OFFLINE_BACKBONE, SIZE)
    with pytest.raises(pytest.fail.Exception, match="tried again"):
        check_backbone(tmp_path, "test_convnext", SIZE + 8)


def test_attention_over_partitions_is_exported_with_plain_attention():
    """As in maxvit_rmlp: the newer exporter gives fused attention's result a memory order that cannot be viewed."""
    make_timm_importable()
    from timm.models import maxxvit

    cfg = maxxvit.MaxxVitTransformerCfg(dim_head=4, window_size=(2, 2), grid_size=(2, 2), rel_pos_type="mlp")

    class Blocks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = maxxvit.PartitionAttentionCl(8, cfg=cfg)

        def forward(self, images):
            return self.attention(images.float())

    blocks, images = Blocks().eval(), torch.zeros(2, 4, 4, 8, dtype=torch.uint8).numpy()
    with pytest.raises(Exception, match="FX graph"):
        onnx_graph.exported(blocks, images, ["out"])
    assert onnx_graph.exporters(blocks)[-1](blocks, images, ["out"]).graph.output[0].name == "out"
    assert all(part.fused_attn for part in blocks.modules() if hasattr(part, "fused_attn")), "as before"
