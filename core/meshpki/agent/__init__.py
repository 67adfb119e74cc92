"""The agent: one rotation core that decides, and the faces that serve what it holds.

From the ground up, as `make lint` holds it: `rotation` decides; `renewal` carries that out, `socket` takes calls;
`sds`, `workload` and `files` are the faces; `process` is what both modes share; `pod` and `node` are the two modes.
"""
