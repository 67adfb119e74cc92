"""What goes over a wire: message definitions and method paths of the protocols that we share with others.

The messages live in a proto package of our own, so that a process which also loads the original definitions
(a test, a vendor's plugin) registers no name twice. Field numbers and types are the originals'; tests compare
the bytes with the originals'. `make proto` regenerates the `_pb2` modules.
"""
