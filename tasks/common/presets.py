"""Backbones by need: short names for params.yaml that stand for a timm model.

Each is about four times as costly as the one before it. docs/backbones.md says when to choose which, with figures.
"""

PRESETS = {
    "edge": "tf_efficientnet_lite0",  # its weights come with a Python package: no hub needed
    "balanced": "convnext_nano.in12k_ft_in1k",
    "accurate": "convnext_base.fb_in22k_ft_in1k",
    "largest": "convnext_xlarge.fb_in22k_ft_in1k",
}


def backbone_name(name: str) -> str:
    """The timm model that a preset stands for; every other name stays as it is."""
    return PRESETS.get(name, name)
