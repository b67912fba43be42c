"""Pairs -> groups of near-duplicates: connected components, and stars, since components chain. No Beam."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from schemas.pairs import GROUPS_SCHEMA
from transforms.long_strings import as_strings


def find_groups(rows_a: np.ndarray, rows_b: np.ndarray, ids: pa.Array) -> pa.Table:
    """Groups of the rows 0 to n - 1 that these pairs make, of `GROUPS_SCHEMA`, by id; every row is in some pair.

    rows_a, rows_b: (m,) int64, no pair twice
    ids: (n,) strings
    """
    order = pc.sort_indices(ids).to_numpy()
    places = np.empty(len(ids), dtype=np.int64)
    places[order] = np.arange(len(ids))
    left, right = places[rows_a], places[rows_b]
    ones = np.ones(2 * len(left), dtype=np.int8)
    ends = np.concatenate([left, right]), np.concatenate([right, left])
    graph = csr_array(coo_array((ones, ends), shape=(len(ids), len(ids))))
    ids = ids.take(pa.array(order))
    stars = star_representatives(graph)
    columns = {
        "id": as_strings(ids),
        "component": as_strings(ids.take(pa.array(first_of_component(graph)))),
        "star": as_strings(ids.take(pa.array(stars))),
        "keep": pa.array(stars == np.arange(len(ids))),
    }
    return pa.table(columns, schema=GROUPS_SCHEMA)


def first_of_component(graph: csr_array) -> np.ndarray:
    """Of each node, the least of its connected component, `(n,)`."""
    _, labels = connected_components(graph, directed=False)
    _, firsts = np.unique(labels, return_index=True)
    return firsts[labels]


def star_representatives(graph: csr_array) -> np.ndarray:
    """Of each node, the representative that it is given to, `(n,)`.

    Nodes with the most partners first, equal ones in order: a node that is not yet taken represents itself and takes
    its partners that are not. So each is itself a representative or a partner of its own: no chains.
    """
    partners, stars = np.diff(graph.indptr), np.full(graph.shape[0], -1)
    for node in np.lexsort((np.arange(len(stars)), -partners)):
        if stars[node] < 0:
            near = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
            stars[near[stars[near] < 0]] = node
            stars[node] = node
    return stars
