"""Calls as they come in: taken from gRPC's own queue, judged, waited for, answered. Knows nothing of certificates."""
