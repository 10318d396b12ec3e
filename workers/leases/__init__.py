"""What only workers do in RQ's records: start jobs, keep them alive, end them, recover those of dead workers. Imports `queue`."""
