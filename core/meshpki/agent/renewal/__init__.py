"""What carries a rotation out: the CA's client, tokens, roots, cache, and the keeper that turns the wheel."""
