"""`python -m workers.evaluation MODEL` measures a published checkpoint in a process of its own; needs no Redis. Imports computing."""
