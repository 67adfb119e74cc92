"""What every process of ours needs from its machine: private files, logs without secrets, health endpoints."""
