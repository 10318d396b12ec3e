"""Who may ask for how much, and what a request becomes. Imports `protocol`."""
