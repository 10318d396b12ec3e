"""The `ebbtide` command. Imports `client` and `protocol`; it speaks to an API over HTTP."""
