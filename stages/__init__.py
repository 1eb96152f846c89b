"""One script per stage of dvc.yaml, run as `python -m stages.NAME`, so that each uses the package of its own checkout."""
