"""One command, one small file: parse, call core, render."""
