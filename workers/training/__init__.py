"""`python -m workers.training`: runs jobs one at a time, each in a process of its own, such as training. Imports `queue`."""
