"""The process of one experiment, which `evergreen experiment` starts inside its worktree.

    python -m flows.experiments.process RUN_ID

RUN_ID names the workspace, for `evergreen cancel`. It imports nothing heavy itself: the worker processes of a training
import their parent's main module again.
"""

if __name__ == "__main__":
    import os
    import signal
    import sys
    from pathlib import Path

    from flows.startup import collect_less_garbage
    from tasks.common.orphans import end_with_parent

    collect_less_garbage()
    if "EVERGREEN_PARENT" in os.environ:  # a Ray worker
        end_with_parent(int(os.environ["EVERGREEN_PARENT"]))
    from flows.experiments.run import main

    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = main(Path.cwd())
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
