"""The changes that a local installation is made of, each with its observation, its gate and its undoing."""
