"""The pipeline's steps. What needs no Beam (sources, encoder, similarity, plan) does not import it."""
