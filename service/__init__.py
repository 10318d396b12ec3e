"""The HTTP API: validates requests, enqueues jobs, reports results. Imports `workers` and `models`, never torch."""
