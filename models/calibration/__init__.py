"""From critic to density ratio: methods, what chooses between them, and the figures a card states. Imports families, metrics, inference."""
