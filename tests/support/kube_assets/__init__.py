"""Real Kubernetes programs for the tests: which releases, where they are kept, and how they get there."""
