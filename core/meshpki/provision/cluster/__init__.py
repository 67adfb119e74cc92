"""What a Kubernetes cluster can do, and on what evidence: recorded answers, a pure verdict per rung, one ladder."""
