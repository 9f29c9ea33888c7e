"""The launcher, one process on one machine: checks, mpiexec, supervision, recording."""
