"""Methods whose ranks hold replicas and average gradients or parameters."""
