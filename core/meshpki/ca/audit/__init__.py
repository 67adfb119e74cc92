"""The audit log: who got which certificate, on the disk before the answer leaves, chained by hashes."""
