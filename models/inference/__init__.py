"""How a published checkpoint runs fast: prepared once, then frozen. Imports networks, families and targets."""
