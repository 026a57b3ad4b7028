"""The process of one experiment, which `evergreen experiment` starts inside its worktree.

    python -m flows.experiments.process RUN_ID

RUN_ID names the workspace, for `evergreen cancel`. It imports nothing heavy itself: the worker processes of a training
import their parent's main module again.
"""

if __name__ == "__main__":
    import signal
    import sys
    from pathlib import Path

    from flows.startup import collect_less_garbage

    collect_less_garbage()
    from flows.experiments.run import main

    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = main(Path.cwd())
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
