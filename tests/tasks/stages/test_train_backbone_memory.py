"""Tests for tasks.stages.train_backbone.memory: the system does not clear the blocks of every training step again."""

import os
import subprocess
import sys

CODE = """
import resource
import torch
from tasks.stages.train_backbone.memory import freed_memory_kept

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(1 << 24)  # 64 MB, made and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
with freed_memory_kept():
    faults(2)
    kept = faults(20)
print(kept, faults(20))
"""


def test_large_tensors_come_from_memory_that_is_kept_and_goes_back_to_the_system_afterwards():
    """Page faults, in a process of its own: what others allocated before, and large pages, change their number."""
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env, check=True)
    kept, after = map(int, done.stdout.split())
    assert kept * 5 < after
