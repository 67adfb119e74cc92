"""Node mode: many workloads on one socket, each by a token of its own."""
