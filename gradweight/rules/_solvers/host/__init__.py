"""The solvers' forms for NumPy arrays: LAPACK, loops that end, double precision inside."""
