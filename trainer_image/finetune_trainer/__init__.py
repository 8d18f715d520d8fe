"""The work inside the pod: prepare, measure, train, measure again, store. Runs without Kubernetes too."""
