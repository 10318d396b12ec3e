"""Chains of all jobs on one device, one evaluation a tick. Knows no Redis; imports `models` and the files beside this folder."""
