"""Records, Arrow schemas and the dataset on disk. Imports nothing of `transforms` or `jobs`, and no Beam."""
