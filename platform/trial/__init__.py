"""One configuration in training on one worker."""
