"""The agent: one rotation core that decides, and the faces that serve what it holds."""
