"""What the store's rows say, without torch or MPI."""
