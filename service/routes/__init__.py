"""The endpoints, one file for each resource. Imports `admission` and `protocol`; `app.ROUTES` lists the files."""
