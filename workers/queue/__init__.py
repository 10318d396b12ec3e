"""What the API and the workers share: jobs in Redis, their state, events and files. Imports neither torch nor another folder here."""
