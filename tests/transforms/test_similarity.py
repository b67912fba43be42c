"""The kernel against a float64 brute force, bit for bit, on vectors chosen to break it."""

import dataclasses
import functools
import itertools
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import bounds, products, similarity, top_k, tuning
from transforms.bounds import (
    Filter,
    PreparedBlock,
    Rotation,
    prefix_filter,
    prepare,
    principal_axes,
    score_bounds,
    threshold,
    whole_filter,
)
from transforms.similarity import Buffers, Tile, pairs_in_blocks, products_of, scores_of
from transforms.top_k import NO_RANK, TopK, top_k_in_blocks
from transforms.tuning import estimate_pairs, fit_filter, threshold_for
from transforms.units import GRID, SCORE_ERROR, normalize

SHAPES = ["gaussian", "equal", "opposite", "near", "tiny_tail", "dominant_axis", "clustered", "low_rank", "mixed"]
SLOW = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module", params=[torch.int8, torch.bfloat16], ids=["int8", "bfloat16"], autouse=True)
def codes(request):
    """All that holds, holds for both kinds of codes, whichever is faster here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "code_dtype", lambda device, dims: request.param)
        yield request.param


def make(shape: str, n: int, dims: int, seed: int) -> np.ndarray:
    """`(n, dims)` float32 vectors, not normalised."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dims))
    if shape == "equal":
        x[:] = x[0]
    elif shape == "opposite":
        x[:] = x[0] * np.where(np.arange(n) % 2, -1, 1)[:, None]
    elif shape == "near":  # cosines within 1e-7 of 0.8 with the first row
        first, rest = x[:1] / np.linalg.norm(x[0]), x[1:]
        rest -= (rest @ first.T) * first
        rest /= np.linalg.norm(rest, axis=1, keepdims=True)
        cosines = 0.8 + rng.integers(-3, 4, (n - 1, 1)) * 3e-8
        x[0], x[1:] = first, cosines * first + np.sqrt(1 - cosines**2) * rest
    elif shape == "tiny_tail":
        x[:, 3:] *= 10.0 ** -rng.integers(3, 9, (n, 1))
    elif shape == "dominant_axis":
        x[:, 0] = 10.0 ** rng.integers(0, 7, n)
    elif shape == "clustered":
        x = x[rng.integers(0, max(n // 8, 1), n)] + 0.4 * x
    elif shape == "low_rank":
        x = x[:, :2] @ rng.standard_normal((2, dims))
    elif shape == "mixed":
        return np.concatenate([make(s, n, dims, seed)[i :: len(SHAPES)] for i, s in enumerate(SHAPES[:-1])])
    return (x * 10.0 ** rng.integers(-3, 4, (len(x), 1))).astype(np.float32)


def filters(units: np.ndarray) -> list[Filter]:
    dims = units.shape[1]
    flat, axes = np.eye(dims), principal_axes(units)
    return [whole_filter(dims), Filter(None, flat), *(prefix_filter(axes, d) for d in {2, dims // 3, dims} if d > 1)]


def brute(units: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    left, right = (rows.astype(np.float64) for rows in (units, units if others is None else others))
    norms = [np.sqrt(np.square(wide).sum(axis=1)) for wide in (left, right)]
    return (left @ right.T / (norms[0][:, None] * norms[1])).astype(np.float32)


def found(a: PreparedBlock, b: PreparedBlock, min_score: float, first_a: int = 0, first_b: int = 0, **options) -> dict:
    pairs = [
        ((int(i) + first_a, int(j) + first_b), score)
        for chunk in pairs_in_blocks(a, b, min_score, **options)
        for i, j, score in zip(*chunk, strict=True)
    ]
    assert len(dict(pairs)) == len(pairs), "a pair was reported twice"
    return dict(pairs)


def expected(scores: np.ndarray, min_score: float) -> dict:
    rows, cols = np.nonzero(np.triu(scores >= np.float32(min_score), 1))
    return {(int(i), int(j)): scores[i, j] for i, j in zip(rows, cols, strict=True)}


def unit_or_not(raw: np.ndarray, unit: bool) -> np.ndarray:
    """As a model that normalises makes them: of unit length but for float32's rounding, and not on the grid."""
    return raw / np.linalg.norm(raw, axis=1, keepdims=True) if unit else raw


vectors = st.builds(
    unit_or_not,
    st.builds(
        make, st.sampled_from(SHAPES), st.integers(2, 90), st.sampled_from([3, 7, 24, 65, 130]), st.integers(0, 2**16)
    ),
    st.booleans(),
)


@SLOW
@given(vectors)
def test_normalized_rows_are_unit_on_the_grid_and_their_own(raw):
    units = normalize(raw)
    wide = units.astype(np.float64)
    assert np.abs(np.linalg.norm(wide, axis=1) - 1).max() < 1e-6
    assert (wide * GRID == np.rint(wide * GRID)).all()
    assert (normalize(units) == units).all()
    assert all((normalize(raw[i : i + 1]) == units[i]).all() for i in range(len(raw)))
    true = raw.astype(np.float64)
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    assert np.abs(brute(units) - true @ true.T).max() < SCORE_ERROR


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_zero_and_non_finite_rows_are_refused_by_number(bad):
    raw = make("gaussian", 20, 8, 0)
    raw[[3, 17]] = 0
    raw[[3, 17], 1] = bad
    for refuse in (normalize, lambda v: prepare(v, whole_filter(8))):
        with pytest.raises(ValueError, match=r"rows 3, 17$"):
            refuse(raw)
    with pytest.raises(ValueError, match=re.escape("and 10 more")):
        normalize(np.zeros((20, 4)))


@SLOW
@given(vectors, vectors)
def test_no_product_is_below_the_threshold_of_its_own_score(one, other):
    """The proof itself, on every pair of two blocks with scales and errors of their own."""
    dims = min(one.shape[1], other.shape[1])
    one, other = one[:, :dims] + np.float32(1e-3), other[:, :dims] + np.float32(1e-3)
    for choice in filters(normalize(one)):
        a, b = prepare(one, choice), prepare(other, choice)
        made = products_of(a, b, Tile(slice(0, len(a)), slice(0, len(b))), Buffers(a))
        scores = brute(normalize(one), normalize(other))
        values, least = products.comparable(made, threshold(a, b, scores))
        assert (values >= least).all(), choice.name
        if choice.basis is None:
            least, most = score_bounds(a, b, made)
            assert (least <= scores).all() and (scores <= most).all()


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_bound_holds_where_torch_is_told_to_multiply_float32_in_bfloat16(precision):
    raw = make("clustered", 400, 384, 11)
    bounds._float32_is_kept.cache_clear()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        rows, choice = torch.from_numpy(normalize(raw)), whole_filter(384)
        z = bounds._multiply(rows, choice.projection[0]).double()
        exact = rows.double() @ torch.from_numpy(choice.matrix()).t()
        assert (z - exact).norm(dim=1).max() < choice.moved
    finally:
        torch.set_float32_matmul_precision(before)
        bounds._float32_is_kept.cache_clear()


def test_half_the_margin_would_lose_a_pair(codes):
    """Rounding errors that all point along the vector: the margin is what it must be, not what happened to do."""
    dims = 384 if codes is torch.int8 else 1001  # every 0.0316 is 0.36 % above its bfloat16
    raw = np.ones((3, dims), dtype=np.float32)
    raw[2] = np.eye(dims)[0]  # sets the scale of whole numbers, and every 0.051 is 6.48 of them
    block = prepare(raw, Filter(None, np.eye(dims)))
    assert found(block, block, 1.0, same=True) == {(0, 1): np.float32(1)}
    halved = dataclasses.replace(block, error=block.error / 2)
    assert found(halved, halved, 1.0, same=True) == {}


def test_without_slack_a_bound_from_above_would_be_below_the_score(codes, monkeypatch):
    """A vector as short as one may be that is not divided by its length, whose codes are exact: of what the margin is
    made of, the slack alone is left to make up for the length."""
    block = prepare(np.full((2, 1), 1 - 9.4e-7, dtype=np.float32), Filter(None, np.eye(1)))
    made = products_of(block, block, Tile(slice(0, 2), slice(0, 2)), Buffers(block))
    least, most = score_bounds(block, block, made)
    assert (least <= 1).all() and (most >= 1).all()
    monkeypatch.setattr(bounds, "SLACK", 0)
    short = score_bounds(block, block, made)[1] < 1
    assert short.all() == (codes is torch.int8)  # a product that was rounded to bfloat16 has a wider bound


def test_without_longer_rests_that_rounding_hides_would_lose_pairs(monkeypatch):
    """Of x next to nothing is left beside the axes, which float32 takes for nothing at all; much is left of y, in the
    same direction. The codes of both are exact."""
    whole = [(a, b, c) for a, b, c in itertools.product(range(10, 127, 2), repeat=3) if a * a + b * b + c * c == 127**2]
    whole += [(98, 21, 78), (78, 21, 98), (42, 26, 117)]
    rng, cases = np.random.default_rng(0), []
    for _ in range(150):
        axes = np.linalg.qr(rng.standard_normal((8, 8)))[0].T[:3]
        y = np.array(whole[rng.integers(len(whole))]) @ axes / 127
        rest = 10 ** rng.uniform(-4.5, -2.5)
        raw = np.stack([np.sqrt(1 - rest**2) * axes[0] + rest * axes[2], y]).astype(np.float32)
        cases.append((raw, Filter(np.ascontiguousarray(axes[:2]), np.eye(3)), float(brute(normalize(raw))[0, 1])))

    def lost() -> int:
        blocks = [(prepare(raw, choice), score) for raw, choice, score in cases]
        return sum((0, 1) not in found(block, block, score, same=True, tile=(32, 32)) for block, score in blocks)

    assert lost() == 0
    monkeypatch.setattr(Filter, "longer", 0.0)
    assert lost() > 0


@pytest.mark.parametrize("dims", [1, 2, 3, 384, 1000, 1536])
def test_a_rotation_is_orthonormal_far_beyond_what_the_proof_asks_for(dims):
    made = Rotation(dims, seed=3).matrix()
    assert np.linalg.norm(made @ made.T - np.eye(dims)) < 1e-12
    assert (Filter(None, made).matrix() == whole_filter(dims, 3).matrix()).all()


def test_scores_on_a_device_take_a_stated_memory(monkeypatch):
    raw = make("clustered", 50, 384, 1)
    block = prepare(raw, whole_filter(384))
    rows, cols = (grid.ravel() for grid in np.meshgrid(np.arange(50), np.arange(50)))
    want, taken = scores_of(block, rows, block, cols), []
    real = torch.linalg.vecdot
    monkeypatch.setattr(torch.linalg, "vecdot", lambda a, b: taken.append(len(a)) or real(a, b))
    monkeypatch.setattr(similarity, "DEVICE_SCORE_BYTES", 24 * 384 * 7)
    assert (similarity._scores_on_device(block, rows, block, cols) == want).all()
    assert max(taken) == 7 and sum(taken) == 2500


@SLOW
@given(vectors, st.floats(0, 1), st.integers(-1, 1), st.sampled_from([(32, 32), (64, 96), (1024, 2048)]), st.data())
def test_pairs_are_the_brute_force_for_every_filter_tile_and_cut(raw, quantile, ulps, tile, data):
    units = normalize(raw)
    scores = brute(units)
    min_score = np.quantile(scores, quantile, method="nearest")  # a score that is there, and its neighbours
    min_score = float(np.nextafter(min_score, np.float32(2 * ulps))) if ulps else float(min_score)
    cut = data.draw(st.integers(0, len(raw)))
    want = expected(scores, min_score)
    for choice in filters(units):
        a, b = prepare(raw[:cut], choice), prepare(raw[cut:], choice)
        pairs = found(a, a, min_score, same=True, tile=tile) | found(b, b, min_score, cut, cut, same=True, tile=tile)
        assert pairs | found(a, b, min_score, 0, cut, tile=tile) == want, choice.name
        assert {(j, i): s for (i, j), s in found(b, a, min_score, cut, 0, tile=tile).items()}.items() <= want.items()


@SLOW
@given(vectors, st.sampled_from([0.3, 0.8, 0.99]), st.randoms(use_true_random=False))
def test_pairs_do_not_depend_on_row_order(raw, min_score, random):
    order = list(range(len(raw)))
    random.shuffle(order)
    choice = filters(normalize(raw))[-1]
    here, there = prepare(raw, choice), prepare(raw[order], choice)
    moved = {tuple(sorted((order[i], order[j]))): s for (i, j), s in found(there, there, min_score, same=True).items()}
    assert moved == found(here, here, min_score, same=True)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_score_is_the_same_alone_in_any_batch_and_in_either_order(shape, unit, monkeypatch):
    raw = unit_or_not(make(shape, 90, 384, 1), unit)
    block = prepare(raw, whole_filter(384))
    assert np.shares_memory(block.units.numpy(), raw) == unit
    n = len(block)
    rows, cols = (grid.ravel() for grid in np.meshgrid(np.arange(n), np.arange(n)))
    want = brute(normalize(raw))[rows, cols]
    assert (scores_of(block, rows, block, cols) == want).all()
    assert (scores_of(block, cols, block, rows) == want).all()
    assert (similarity._scores_on_device(block, rows, block, cols) == want).all()
    assert all(scores_of(block, rows[[i]], block, cols[[i]]) == want[i] for i in range(0, n * n, 97))
    for dense in (0, 2):
        monkeypatch.setattr(similarity, "DENSE", dense)
        tile = Tile(slice(0, n), slice(0, n))
        assert (similarity.tile_scores_of(block, rows, block, cols, tile) == want).all()


@SLOW
@given(vectors)
def test_equal_vectors_score_one_and_opposite_ones_minus_one(raw):
    both = np.concatenate([raw, raw, -raw])
    block = prepare(both, whole_filter(raw.shape[1]))
    rows = np.arange(len(raw))
    assert (scores_of(block, rows, block, rows + len(raw)) == 1).all()
    assert (scores_of(block, rows, block, rows + 2 * len(raw)) == -1).all()
    assert len(found(block, block, 1.0, same=True, tile=(32, 32))) >= len(raw)


def test_threads_change_neither_pairs_nor_their_order_nor_the_callers_threads():
    block = prepare(make("clustered", 700, 48, 2), whole_filter(48))
    before = torch.get_num_threads()
    one, three = (list(pairs_in_blocks(block, block, 0.7, same=True, tile=(64, 128), threads=t)) for t in (1, 3))
    assert len(one) == len(three) > 20
    assert all((x == y).all() for p, q in zip(one, three, strict=True) for x, y in zip(p, q, strict=True))
    assert torch.get_num_threads() == before


def _saturating(a, b, out=None):
    return torch.clamp(a.int() @ b.int(), -(2**15), 2**15 - 1)


@pytest.mark.parametrize("broken", [None, _saturating])
def test_without_a_right_int8_product_floats_find_the_same(broken, monkeypatch):
    block = prepare(make("clustered", 300, 384, 3), whole_filter(384))
    want = found(block, block, 0.8, same=True)
    if broken:
        monkeypatch.setattr(torch, "_int_mm", broken)
    else:
        monkeypatch.delattr(torch, "_int_mm")
    products._int8_pays.cache_clear()
    try:
        assert not products._int8_pays("cpu")
        assert want and found(block, block, 0.8, same=True) == want
    finally:
        products._int8_pays.cache_clear()


@pytest.mark.parametrize("largest", [1, 127])
def test_bfloat16_products_are_the_exact_ones_rounded_and_bounds_lose_none_of_them(largest):
    """Down to the last bit, at any bound: around zero, at ties of the rounding, and beyond what bfloat16 holds."""
    rng = np.random.default_rng(largest)
    left, right = (torch.from_numpy(rng.integers(-largest, largest + 1, (64, 384))) for _ in range(2))
    right[:32] = left[:32]
    exact = (left.double() @ right.double().t()).numpy().astype(np.int32)
    out = torch.empty(64, 64, dtype=torch.bfloat16)
    products.multiply(left.bfloat16(), right.bfloat16(), out)
    assert torch.equal(out, torch.from_numpy(exact).float().bfloat16())
    for least in [*np.unique(exact)[::7], -1, 0, 1, 2**24 - 1]:
        values, bound = products.comparable(out, np.int32(least))
        assert (values >= bound)[exact >= least].all(), least
        if least > 0:  # and not many more
            assert (exact[(values >= bound)] >= least - least / 128 - 1).all(), least


def test_codes_of_more_dimensions_than_float32_adds_exactly_stay_int8(monkeypatch):
    monkeypatch.setattr(products, "_bfloat16_pays", lambda: True)
    assert products.code_dtype("cpu", 1040) is torch.bfloat16
    assert products.code_dtype("cpu", 1048) is torch.int8
    assert products.code_dtype("cuda", 384) is torch.int8


def test_a_crowded_mask_and_a_sparse_one_are_scanned_alike():
    rng = np.random.default_rng(0)
    for share, size in itertools.product((0, 1e-4, 0.01, 0.5, 1), (0, 5, 64, 4096, 100_003)):
        mask = rng.random(size) < share
        assert (similarity._flatnonzero(mask) == np.flatnonzero(mask)).all()


def test_candidates_on_a_device_are_those_of_the_flat_scan(codes):
    block = prepare(make("clustered", 200, 48, 4), whole_filter(48))
    buffers = Buffers(block)
    products = products_of(block, block, Tile(slice(0, 200), slice(32, 190)), buffers)
    lowest = -1 if codes is torch.int8 else 0.2  # below 0, bfloat16's scan lets everything pass
    for least in (threshold(block, block, 0.5), threshold(block, block, np.linspace(lowest, 1, 200))[:, None]):
        here, there = similarity.find_at_least(products, least, buffers), similarity._find_on_device(products, least)
        assert len(here[0]) and all((x == y).all() for x, y in zip(here, there, strict=True))


def test_blocks_of_different_filters_tiles_of_odd_size_and_skewed_filters_are_refused():
    raw = make("gaussian", 40, 12, 5)
    with pytest.raises(ValueError, match="different filters"):
        list(pairs_in_blocks(prepare(raw, whole_filter(12)), prepare(raw, whole_filter(12, seed=1)), 0.5))
    with pytest.raises(ValueError, match="multiples of 32"):
        list(pairs_in_blocks(prepare(raw, whole_filter(12)), prepare(raw, whole_filter(12)), 0.5, tile=(33, 32)))
    with pytest.raises(ValueError, match="orthonormal"):
        Filter(None, np.eye(4) * 1.001)


@pytest.mark.parametrize("rows", [0, 1])
def test_blocks_of_no_row_and_of_one_have_no_pairs_of_their_own(rows):
    block = prepare(np.ones((rows, 8), dtype=np.float32), whole_filter(8))
    assert found(block, block, 0.1, same=True) == {}


def brute_top_k(scores: np.ndarray, ranks: np.ndarray, k: int, least: float) -> TopK:
    best = TopK.empty(len(scores), k)
    for i, row in enumerate(scores):
        order = [j for j in np.lexsort((ranks, -row)) if row[j] >= least][:k]
        best.scores[i, : len(order)], best.ranks[i, : len(order)] = row[order], ranks[order]
    return best


def same_top_k(one: TopK, other: TopK) -> bool:
    return bool((one.scores == other.scores).all() and (one.ranks == other.ranks).all())


@SLOW
@given(vectors, st.integers(1, 6), st.sampled_from([None, 0.5, 0.8]), st.booleans(), st.data())
def test_top_k_is_the_brute_force_with_ties_by_rank(raw, k, min_score, itself, data):
    raw = np.concatenate([raw, raw[: len(raw) // 2]])  # ties
    ranks = np.random.default_rng(len(raw)).permutation(len(raw)) * 3
    scores = brute(normalize(raw))
    if itself:
        np.fill_diagonal(scores, -2)
    want = brute_top_k(scores, ranks, k, -1.5 if min_score is None else min_score)
    cut = data.draw(st.integers(0, len(raw)))
    choice = whole_filter(raw.shape[1])
    queries, parts = prepare(raw, choice), [(raw[cut:], ranks[cut:]), (raw[:cut], ranks[:cut])]
    options = {"min_score": min_score, "own": ranks if itself else None, "tile": (32, 32)}
    running, apart = TopK.empty(len(raw), k), []
    for part, part_ranks in parts:
        block = prepare(part, choice)
        running = top_k_in_blocks(queries, block, part_ranks, running, **options)
        apart.append(top_k_in_blocks(queries, block, part_ranks, TopK.empty(len(raw), k), **options))
    assert same_top_k(running, want)
    assert same_top_k(apart[0].merge(apart[1]), want) and same_top_k(apart[1].merge(apart[0]), want)
    assert same_top_k(running.merge(running), want)


def test_top_k_of_many_equal_rows_is_the_lowest_ranks():
    raw = np.ones((500, 8), dtype=np.float32)
    block = prepare(raw, whole_filter(8))
    ranks = np.arange(500)[::-1].copy()
    best = top_k_in_blocks(block, block, ranks, TopK.empty(500, 3), own=ranks, tile=(64, 64), threads=2)
    assert best.ranks[0].tolist() == [0, 1, 2] and best.ranks[-1].tolist() == [1, 2, 3]
    assert (best.ranks != ranks[:, None]).all() and (best.ranks != NO_RANK).all()


@pytest.mark.parametrize("most_pending", [0, 50, 1 << 20])
@pytest.mark.parametrize("dense", [0, 0.06, 2])
def test_top_k_is_the_same_however_many_matches_wait_for_their_scores(dense, most_pending, monkeypatch):
    raw = make("clustered", 900, 48, 12)
    ranks = np.random.default_rng(0).permutation(900)
    want = brute_top_k(brute(normalize(raw))[:200], ranks, 5, -1.5)
    monkeypatch.setattr(top_k, "DENSE", dense)
    monkeypatch.setattr(top_k, "MOST_PENDING", most_pending)
    queries, corpus = prepare(raw[:200], whole_filter(48)), prepare(raw, whole_filter(48))
    assert same_top_k(top_k_in_blocks(queries, corpus, ranks, TopK.empty(200, 5), tile=(64, 96), threads=2), want)


def test_few_of_the_pairs_that_pass_are_scored(monkeypatch):
    """What the bounds of products are for: four scores or so for each match, not one for each that once passed."""
    raw, scored = make("gaussian", 4000, 48, 13), []
    whole = top_k.scores_of
    monkeypatch.setattr(top_k, "scores_of", lambda a, r, b, c: [scored.append(len(r)), whole(a, r, b, c)][1])
    block = prepare(raw, whole_filter(48))
    top_k_in_blocks(block, block, np.arange(4000), TopK.empty(4000, 3), tile=(1024, 256))
    assert 3 * 4000 <= sum(scored) < 4 * 3 * 4000


def test_top_k_by_a_filter_that_leaves_something_out_is_refused():
    raw = make("gaussian", 200, 16, 5)
    block = prepare(raw, prefix_filter(principal_axes(normalize(raw)), 8))
    with pytest.raises(ValueError, match="whole_filter"):
        top_k_in_blocks(block, block, np.arange(200), TopK.empty(200, 3))


@pytest.fixture(scope="module")
def clustered() -> np.ndarray:
    rng = np.random.default_rng(6)
    centres = rng.standard_normal((1500, 96))
    return normalize(centres[rng.integers(0, 1500, 6000)] + 0.3 * rng.standard_normal((6000, 96)))


def test_the_estimates_interval_holds_the_truth_nine_times_in_ten(clustered):
    truth = (np.triu(clustered @ clustered.T, 1) >= 0.85).sum()
    rng = np.random.default_rng(7)
    estimates = [estimate_pairs(clustered[rng.choice(6000, 1000, replace=False)], 6000, 0.85) for _ in range(60)]
    assert sum(e.low <= truth <= e.high for e in estimates) >= 54
    assert abs(np.mean([e.pairs for e in estimates]) / truth - 1) < 0.15
    assert max(e.high for e in estimates) < 5 * truth
    assert estimate_pairs(clustered, 6000, 0.85) == (truth, truth, truth)


def test_an_estimate_of_none_has_an_upper_bound():
    estimate = estimate_pairs(np.eye(100, dtype=np.float32), 1000, 0.9)
    assert estimate.pairs == estimate.low == 0
    assert estimate.high == pytest.approx(3.7 * (1000 * 999) / (100 * 99 / 2) / 2, rel=0.05)


def test_no_row_counts_as_its_own_pair_nor_as_less_than_none(clustered):
    assert estimate_pairs(clustered[:500], 500, 1.0) == (0, 0, 0)


def test_the_threshold_that_fits_lets_through_no_more_than_it_should(clustered):
    at = threshold_for(clustered[:2000], 6000, 5000)
    scores = np.triu(clustered @ clustered.T, 1)
    assert (scores >= at).sum() < 7000 and (scores >= at - 0.03).sum() > 5000
    assert threshold_for(np.ones((10, 4), dtype=np.float32) / 2, 1000, 10) == 1.0


def _seconds_of_a_quiet_machine(function, runs=5):
    """A tile's by its dimensions, and that of a score, as they were measured once."""
    if isinstance(function, functools.partial):
        return (0.3 + 0.004 * function.args[0].codes.shape[1]) * 1e-9 * 1024**2
    return 450e-9 * 4096 / tuning.COLD


def test_the_fitted_filter_follows_the_threshold_ships_and_says_why(monkeypatch):
    monkeypatch.setattr(tuning, "seconds", _seconds_of_a_quiet_machine)
    rng = np.random.default_rng(8)
    spectrum = 1 / np.arange(1, 385) ** 0.7
    units = normalize(rng.standard_normal((4096, 384)) * spectrum)
    high, low = fit_filter(units, 0.9), fit_filter(units, 0.7)
    assert (high.name, low.name) == ("prefix-64", "whole-384")
    assert high.why.startswith(f"{high.name} costs least on 1,024 sampled rows: ") and "whole-384" in high.why
    packed = [pickle.dumps(choice) for choice in (high, low)]
    assert len(packed[0]) < 63 * 384 * 2 + 1000 and len(packed[1]) < 1000
    shipped = [pickle.loads(some) for some in packed]
    assert shipped[0] is pickle.loads(packed[0]) and shipped[0].why == high.why  # it is built once a process
    alike = np.abs(np.einsum("ij,ij->i", shipped[0].basis, high.basis))  # to their signs, which matter to no bound
    assert np.abs(alike - 1).max() < 1e-6 and shipped[0].name == high.name
    assert shipped[1].digest == low.digest != shipped[0].digest
    monkeypatch.undo()
    soon = fit_filter(units, 0.9, pairs=10**6)
    assert soon.name == "whole-384" and "fitting another would take longer" in soon.why
    assert fit_filter(units[:3, :5], 0.5).name == "whole-5"


@pytest.mark.model
def test_every_filter_finds_the_paraphrases_of_real_sentences(bundled_model):
    from pydoc_data.topics import topics

    from transforms.encoder import Encoder
    from transforms.model import EncodeOptions, resolve_model

    text = " ".join(" ".join(topics.values()).split())
    sentences = list(dict.fromkeys(s for s in re.split(r"(?<=[.:!?])\s+", text) if 20 < len(s) < 120))[:2000]
    options = EncodeOptions(model=bundled_model, device="cpu")
    raw = Encoder(resolve_model(options), options).encode(sentences).vectors
    units = normalize(raw)
    scores = brute(units)
    assert np.abs(scores - raw.astype(np.float64) @ raw.T.astype(np.float64)).max() < SCORE_ERROR
    for choice in (
        *(prefix_filter(principal_axes(units), d) for d in (64, 128)),
        whole_filter(384),
        fit_filter(units, 0.7),
    ):
        block = prepare(raw, choice)
        for min_score in (0.6, 0.7, 0.8, 0.9):
            want = expected(scores, min_score)
            assert want and found(block, block, min_score, same=True, threads=2) == want
