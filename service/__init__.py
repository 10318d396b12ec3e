"""The HTTP: it validates, enqueues and reports, and never imports torch."""
