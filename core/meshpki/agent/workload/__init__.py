"""The SPIFFE Workload API on the same socket."""
