"""Tests for tasks.stages.train_backbone.memory: the system does not clear the blocks of every training step again."""

import resource

import torch

from tasks.stages.train_backbone.memory import freed_memory_kept


def faults(rounds: int) -> int:
    """Page faults of `rounds` tensors of 64 MB, made and freed one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_large_tensors_come_from_memory_that_is_kept_and_goes_back_to_the_system_afterwards():
    with freed_memory_kept():
        faults(2)
        kept = faults(20)
    assert kept * 5 < faults(20)
