"""Analysis of the store's rows: rankings, scores, statistics and projections, without torch or MPI."""
