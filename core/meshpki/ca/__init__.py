"""The certificate authority: profile, prepare, issue; the audit log; the gRPC server."""
