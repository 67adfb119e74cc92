"""Envoy's Secret Discovery Service (SDS v3): streams, deltas, fetches, and the names that they may ask for."""
