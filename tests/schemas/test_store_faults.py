"""What is tried again, what is not, and what people are told."""

from collections.abc import Callable

import pytest

from schemas import store_faults
from schemas.errors import RunFailed
from schemas.store_faults import LIST, READ, REMOVE, WRITE, Truncated, patiently


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waiting; what would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr(store_faults.time, "sleep", waited.append)
    return waited


def failing(*errors: BaseException) -> Callable[[], str]:
    """Raises these, one a call, then answers."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return call


def s3_error(status: int, code: str, message: str = "the store's words") -> OSError:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    said = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(said, "GetObject"))


def gcs_error(status: int, body: bytes = b'{"error": {"message": "the store\'s words"}}') -> Exception:
    from gcsfs.retry import validate_response

    try:
        validate_response(status, body, "b/bucket/o/a")
    except Exception as error:
        return error
    raise AssertionError


def azure_error(status: int, code: str = "", message: str = "the store's words") -> Exception:
    from azure.core.exceptions import HttpResponseError

    error = HttpResponseError(message)
    error.status_code = status
    error.error_code = code  # type: ignore[attr-defined]
    return error


def cut_short() -> Exception:
    from aiohttp import ClientPayloadError
    from aiohttp.http_exceptions import ContentLengthError

    error = ClientPayloadError("Response payload is not completed")
    error.__cause__ = ContentLengthError("Not enough data")
    return error


def disconnected() -> Exception:
    from aiohttp import ServerDisconnectedError

    return ServerDisconnectedError()


@pytest.mark.parametrize(
    "error",
    [
        Truncated("9 bytes came"),
        ConnectionResetError("reset"),
        TimeoutError(),
        cut_short(),
        disconnected(),
        s3_error(503, "SlowDown"),
        s3_error(500, "InternalError"),
        s3_error(409, "ConditionalRequestConflict"),
        s3_error(400, "RequestTimeout"),
        gcs_error(503),
        gcs_error(429),
        azure_error(503),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_what_may_pass_is_tried_again_after_growing_pauses(error: Exception, pauses: list[float]) -> None:
    assert patiently(READ, "s3://bucket/a", failing(error, error)) == "answer"
    assert len(pauses) == 2
    assert 0 < pauses[0] <= 0.5 and 0.5 <= pauses[1] <= 1.0


@pytest.mark.parametrize(
    ("uri", "action", "error", "needed"),
    [
        ("s3://bucket/a", READ, s3_error(403, "AccessDenied"), "s3:GetObject on s3://bucket"),
        ("s3://bucket/a", WRITE, s3_error(403, "AccessDenied"), "s3:PutObject on s3://bucket"),
        ("s3://bucket/a", LIST, s3_error(403, "AccessDenied"), "s3:ListBucket on s3://bucket"),
        ("s3://bucket/a", REMOVE, PermissionError("a: AccessDenied"), "s3:DeleteObject on s3://bucket"),
        ("s3://bucket/a", READ, s3_error(400, "ExpiredToken"), "s3:GetObject on s3://bucket"),
        ("gs://bucket/a", WRITE, gcs_error(403), "storage.objects.create on gs://bucket"),
        ("gs://bucket/a", READ, gcs_error(401), "storage.objects.get on gs://bucket"),
        ("az://container/a", WRITE, azure_error(403), "Storage Blob Data Contributor on az://container"),
    ],
)
def test_a_missing_permission_says_store_bucket_and_action(
    uri: str, action: store_faults.Action, error: Exception, needed: str, pauses: list[float]
) -> None:
    with pytest.raises(RunFailed) as told:
        patiently(action, uri, failing(error))
    assert f"needs {needed}" in str(told.value)
    assert "\n" not in str(told.value)
    assert pauses == []


def test_missing_credentials_are_told_as_such() -> None:
    from botocore.exceptions import NoCredentialsError

    with pytest.raises(RunFailed, match=r"needs s3:GetObject.*Unable to locate credentials"):
        patiently(READ, "s3://bucket/a", failing(NoCredentialsError()))


@pytest.mark.parametrize(
    "error", [s3_error(404, "NoSuchKey"), gcs_error(404), azure_error(404), FileNotFoundError("x")]
)
def test_what_is_not_there_is_told_at_once(error: Exception, pauses: list[float]) -> None:
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/a$"):
        patiently(READ, "s3://bucket/a", failing(error))
    assert pauses == []


@pytest.mark.parametrize("error", [s3_error(412, "PreconditionFailed"), gcs_error(412), FileExistsError("x")])
def test_a_put_whose_condition_does_not_hold_found_something_there(error: Exception) -> None:
    with pytest.raises(FileExistsError):
        patiently(WRITE, "s3://bucket/a", failing(ConnectionResetError(), error))  # its answer was lost, it is done


def test_what_never_passes_ends_in_one_line_that_says_how_often_it_was_tried(pauses: list[float]) -> None:
    with pytest.raises(RunFailed) as told:
        patiently(READ, "s3://bucket/a", failing(*[s3_error(503, "SlowDown", "slow\ndown")] * 99))
    assert f"cannot read it after {store_faults.ATTEMPTS} attempts in 0 s: slow down" in str(told.value)
    assert "\n" not in str(told.value)
    assert len(pauses) == store_faults.ATTEMPTS - 1


def test_patience_ends() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_faults, "PATIENCE_SECONDS", -1)
        with pytest.raises(RunFailed, match="cannot read it"):
            patiently(READ, "s3://bucket/a", failing(TimeoutError()))


def test_what_the_store_says_is_told_without_its_secrets() -> None:
    error = s3_error(400, "Odd", "https://bucket.example/a?X-Amz-Signature=hunter2&x=hunter2 refused")
    with pytest.raises(RunFailed) as told:
        patiently(READ, "s3://bucket/a", failing(error))
    assert "hunter2" not in str(told.value)
    assert told.value.__cause__ is None and told.value.__suppress_context__


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(AttributeError):
        patiently(READ, "s3://bucket/a", failing(AttributeError("a bug")))


def test_a_secret_is_blanked_before_the_text_is_cut() -> None:
    """Where it lies on the cut, half of it would be no secret that anyone knows."""
    secret = "hunter2hunter2hunter2hunter2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        for before in range(store_faults._MOST_WORDS - 120, store_faults._MOST_WORDS):
            with pytest.raises(RunFailed) as told:
                patiently(READ, "s3://bucket/a", failing(s3_error(400, "Odd", "x" * before + secret + " refused")))
            assert "hunt" not in str(told.value)


def test_a_put_that_the_store_does_not_know_is_asked_once(pauses: list[float]) -> None:
    """Some that speak S3 answer `If-None-Match` with 501."""
    with pytest.raises(RunFailed, match="only if nothing is there yet"):
        patiently(WRITE, "s3://bucket/a", failing(s3_error(501, "NotImplemented")))
    assert pauses == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (s3_error(403, "RequestTimeTooSkewed"), "the clock of this machine"),
        (s3_error(403, "InvalidObjectState"), "archived; restore it"),
        (azure_error(409, "BlobArchived"), "archived; restore it"),
        (azure_error(409, "BlobBeingRehydrated"), "being restored"),
        (azure_error(403, "AuthenticationFailed", "Request date header too old: 'x'"), "the clock of this machine"),
        (ValueError("Bucket is requester pays. Set `requester_pays=True`"), "GS_USER_PROJECT"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_neither_a_permission_nor_time_mends_says_what_does(
    error: Exception, says: str, pauses: list[float]
) -> None:
    with pytest.raises(RunFailed) as told:
        patiently(READ, "s3://bucket/a", failing(error))
    assert says in str(told.value)
    assert "needs" not in str(told.value)
    assert pauses == []
