"""What the processes of both modes share: configuration, signals, status, health and metrics."""
