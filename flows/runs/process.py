"""The process of one run, which `evergreen retrain` starts inside the run's worktree.

    python -m flows.runs.process RUN_ID REASON BY

It is not `flows.runs.retrain` itself: the worker processes of a training import their parent's main module again, and
they would spend seconds on importing Prefect, which they do not use.
"""

if __name__ == "__main__":
    import signal
    import sys

    from flows.startup import collect_less_garbage

    collect_less_garbage()  # before the first heavy import
    from flows.runs.interrupts import merge_interrupts
    from flows.runs.retrain import main

    try:
        merge_interrupts()
        # flows.runs.launch blocks Ctrl-C while modules are imported
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = main(*sys.argv[1:4])
    except KeyboardInterrupt:  # Prefect has marked the run as crashed; finished stages stay
        from pathlib import Path

        from flows.runs.retrain import interrupted

        code = interrupted(Path.cwd())
    sys.exit(code)
