"""Methods that train low-rank factors of the weights, and the layers that hold them."""
