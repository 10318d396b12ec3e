"""Which requests are accepted. Imports `protocol` and `settings`."""
