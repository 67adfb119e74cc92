"""Proof, from outside, that a running CA gives identities to a real cluster's workloads, and to nobody else."""
