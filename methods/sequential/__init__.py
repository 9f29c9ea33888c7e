"""Methods of one rank: stochastic gradient descent, with momentum or averaged iterates."""
