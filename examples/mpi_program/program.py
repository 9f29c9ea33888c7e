"""A program that knows nothing of atoll, in place of your own executable: mpiexec -n 2 python program.py RATE STEPS.

Each rank descends towards a point of its own; the program prints the mean distance that is left.
"""

import sys

from mpi4py import MPI

rate, steps = float(sys.argv[1]), int(sys.argv[2])
comm = MPI.COMM_WORLD
position, goal = 0.0, 1.0 + comm.rank
for _ in range(steps):
    position -= rate * 2 * (position - goal)
left = comm.allreduce(abs(position - goal)) / comm.size
if comm.rank == 0:
    print(f"ranks {comm.size}")
    print(f"distance {left}")
