"""What joining writes: for each query its matches in the corpus, and the queries that have none."""

import pyarrow as pa

KIND = "matches"
UNMATCHED_FOLDER, QUERIES_FOLDER = "_unmatched", "_queries"

_TYPES = {
    "query_id": pa.string(),
    "corpus_id": pa.string(),
    "rank": pa.int32(),
    "score": pa.float32(),
    "query_text": pa.string(),
    "corpus_text": pa.string(),
}


def _schema(*columns: str) -> pa.Schema:
    return pa.schema([pa.field(name, _TYPES[name], nullable=False) for name in columns])


def matches_schema(with_text: bool) -> pa.Schema:
    """By query in the order of the queries' dataset, then by `rank`, from 1, over all parts in order."""
    texts = ("query_text", "corpus_text") if with_text else ()
    return _schema("query_id", "corpus_id", "rank", "score", *texts)


def unmatched_schema(with_text: bool) -> pa.Schema:
    """Queries without a match, in the order of their dataset."""
    return _schema("query_id", *(["query_text"] if with_text else []))
