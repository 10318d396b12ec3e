"""HTTP as Ebbtide speaks it: bodies, errors, media types, documents. Imports `workers.queue` and settings, nothing else of `service`."""
