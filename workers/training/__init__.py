"""`python -m workers.training`: runs training jobs one at a time, each in a process of its own. Imports `queue`."""
