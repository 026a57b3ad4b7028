"""How many processes one training starts by itself: one per GPU, or else one per core.

They share each batch, so the result is that of one process, with the same batch size and learning rate, but for
rounding and the draws of augmentation. Settings for which that does not hold train in one process.
"""

import torch

from tasks.backbones import timm_models
from tasks.common.params import TrainBackboneParams
from tasks.stages.train_backbone import processes
from tasks.stages.train_backbone.phases import moving_statistics, plan

MIN_PASSES = 6000  # images through the network (some 30 s on a core) from which starting workers is worth it
MIN_SHARE = 16  # images of a batch that keep one core busy
MIN_PASSES_GPU = 100_000  # a minute or less on a GPU; a process with CUDA and NCCL takes some ten seconds to start
MIN_SHARE_GPU = 32


def worker_count(images: int, params: TrainBackboneParams) -> int:
    """How many more processes to start for `images` training images, if more are faster and change no result."""
    if not can_share(params):
        return 0
    passes = images * sum(phase.epochs for phase in plan(params) if phase.opened != 0)
    if count := processes.gpus():
        fit = min(count, params.batch_size // MIN_SHARE_GPU) if passes >= MIN_PASSES_GPU else 1
    elif params.threads or passes < MIN_PASSES or timm_models.device().type != "cpu":
        fit = 1
    else:
        fit = min(torch.get_num_threads(), params.batch_size // MIN_SHARE)
    return max(0, fit - 1)


def can_share(params: TrainBackboneParams) -> bool:
    """Whether processes that share each batch train the network that one would.

    Not where BatchNorm learns its statistics, or all images of a batch are compared: those of a share are others.
    """
    return not (moving_statistics(params) or params.distill.features)
