"""Pure builders of the Kubernetes objects that the operator makes, one kind a file; no cluster, no clock."""
