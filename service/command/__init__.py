"""The `ebbtide` command: the API's requests on a terminal, and everything started on one machine."""
