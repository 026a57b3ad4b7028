"""The process of one run: what `evergreen retrain` starts inside the run's worktree.

    python -m flows.runs.process RUN_ID REASON BY

Apart from `flows.runs.retrain`, because the processes that a training starts import their parent's main module again:
they have no use for Prefect, which takes seconds.
"""

if __name__ == "__main__":
    import signal
    import sys

    from flows.startup import collect_less_garbage

    collect_less_garbage()  # before the first import worth the name
    from flows.runs.retrain import main

    try:
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, {signal.SIGINT}
        )  # flows.runs.launch blocks it while modules are imported
        code = main(*sys.argv[1:4])
    except KeyboardInterrupt:  # Prefect has noted that its run crashed; finished stages are kept
        code = 130
    sys.exit(code)
