"""What people do with a project, from runs to the command line. The only code that knows Prefect."""
