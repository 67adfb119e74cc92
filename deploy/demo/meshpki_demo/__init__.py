"""The demonstration: two real Envoys on this machine, with identities from meshpki, and what happens to impostors."""
