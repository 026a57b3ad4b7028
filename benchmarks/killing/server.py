"""A server that forks processes: they start in a tenth of the time that a new Python imports DVC in."""

import multiprocessing

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "benchmarks.kill_scenarios",
        *("dvc.repo", "dvc.commands.repro", "dvc_data.index", "dvc.stage.cache"),
        # what DVC imports when a repository is opened and something is added
        *("dvc.cachemgr", "dvc.data_cloud", "dvc.lock", "dvc.repo.add", "dvc.repo.artifacts", "dvc.repo.datasets"),
        *("dvc.repo.graph", "dvc.repo.index", "dvc.repo.metrics", "dvc.repo.params", "dvc.repo.plots", "dvc.repo.stage"),
        *("dvc.rwlock", "dvc.utils.strictyaml", "dvc_data.hashfile.status", "dulwich.repo", "networkx", "ruamel.yaml"),
        *("dvc.dirs", "dvc.scm", "dvc_data.hashfile.db.local", "fsspec.implementations.memory", "loky", "scmrepo.git"),
        *("flows.cli.main", "flows.project.ingest", "flows.runs.single_flight", "flows.services.up"),
    ]
)
