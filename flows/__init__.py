"""What people do with a project: runs, releases, versions, services, the command line. Only flows imports Prefect."""
