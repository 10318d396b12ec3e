"""From a request to its job: what it leaves open, what it repeats, and the wait for its end. Routes alone import from here."""
