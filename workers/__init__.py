"""The processes: they take jobs, keep the device busy, and report."""
