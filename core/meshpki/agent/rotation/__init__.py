"""The rotation core: what an identity is, when it is renewed, what is accepted, how it stands."""
