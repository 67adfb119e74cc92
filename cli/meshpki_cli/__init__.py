"""The `meshpki` command: one sub-command, one small file, no logic."""
