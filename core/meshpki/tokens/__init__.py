"""A JWT is bytes until proven: strict parse, keys, signature, policy; the result is a Caller or one reason."""
