"""Which requests are accepted and the jobs they become. Imports `protocol` and `settings`."""
