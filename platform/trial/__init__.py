"""The training of one configuration on one worker."""
