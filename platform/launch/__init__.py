"""What runs in the launcher, one process on one machine: checks, mpiexec, supervision, recording."""
