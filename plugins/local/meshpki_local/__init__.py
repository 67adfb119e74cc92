"""The platform `local`: this machine, no cluster. A token issuer, a CA and an agent per workload, supervised."""
