"""What mpiexec starts: the programs of a rank."""
