"""`python -m workers.generation`: takes jobs, feeds the engine in its own process, stores PNG files. Imports all folders but `training`."""
