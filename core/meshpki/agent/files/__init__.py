"""The identity as files: one atomic set, its owner and modes, and whoever is told of a change."""
