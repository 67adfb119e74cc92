"""Pod mode: one workload, by the token beside it."""
