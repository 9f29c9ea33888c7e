"""Methods that train low-rank factors of weights, and the layers that hold them."""
