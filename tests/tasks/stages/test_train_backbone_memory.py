"""Tests for tasks.stages.train_backbone.memory: freed blocks stay for the next training step, and are given back."""

import subprocess
import sys

CODE = """
import torch
from tasks.stages.train_backbone.memory import freed_memory_kept

torch.set_num_threads(1)

def resident():
    torch.ones(1 << 24)  # 64 MB, made and freed
    return int(open("/proc/self/statm").read().split()[1]) * 4 >> 10  # MB

before = resident()
with freed_memory_kept():
    kept = resident()
now = int(open("/proc/self/statm").read().split()[1]) * 4 >> 10
print(kept - before, now - before)
"""


def test_large_blocks_are_kept_during_training_and_given_back_afterwards():
    """MB of resident memory, in a process of its own: others have allocated here before."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, after = map(int, done.stdout.split())
    assert kept >= 60
    assert after < 20
