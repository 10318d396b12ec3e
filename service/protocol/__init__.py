"""The HTTP protocol: bodies, errors, media types, the OpenAPI document, metrics. Imports nothing else of `service` but settings."""
