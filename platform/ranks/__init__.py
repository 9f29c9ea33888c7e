"""The programs that mpiexec starts on each rank."""
