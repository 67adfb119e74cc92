"""What several tests share: token makers, throw-away authorities, real processes."""
