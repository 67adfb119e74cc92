"""The unix socket: its place, the gRPC server on it, and whose session a call is."""
