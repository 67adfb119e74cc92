"""The only room that knows the `kubernetes` client: whom to talk to, by which credential, in raw JSON."""
