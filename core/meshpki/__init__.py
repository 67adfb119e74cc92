"""meshpki: short-lived SPIFFE identities for workloads, against trustworthy service-account tokens."""

__version__ = "0.1.0"
