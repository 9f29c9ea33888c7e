"""Methods whose ranks hold replicas tied to a center: the EASGD and DOWNPOUR families, and consensus ADMM."""
