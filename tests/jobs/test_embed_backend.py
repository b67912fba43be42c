"""`--backend`: what was asked for is what the dataset says, and `auto` settles once."""

from pathlib import Path

import pytest

from jobs import embed, embed_backend
from schemas.errors import InputError
from tests.jobs.conftest import Run


def put_input(folder: Path) -> Path:
    path = folder / "in.txt"
    path.write_text("".join(f"text number {i} of some\n" for i in range(40)))
    return path


@pytest.mark.model
def test_openvino_publishes_vectors_measured_against_torch(run_job: Run, tmp_path: Path) -> None:
    path = put_input(tmp_path)
    ran = run_job(path, "--backend", "openvino")
    assert (ran.status, ran.manifest.fingerprint.backend, len(ran.rows)) == (0, "openvino", 40)
    assert ran.manifest.fidelity["min_cosine"] > 1 - 1e-6
    torchs = run_job(path, output=tmp_path / "torch")
    for name, vector in zip(ran.rows["id"], ran.rows["embedding"], strict=True):
        other = torchs.rows.set_index("id").loc[name, "embedding"]
        assert abs(vector - other).max() < 1e-6
    again = run_job(path, "--backend", "torch")
    assert "everything is encoded anew, the model is another: backend: 'openvino' -> 'torch'" in again.stderr


@pytest.mark.parametrize(("seconds", "wanted"), [([2.0, 1.0], "openvino"), ([1.0, 2.0], "torch")])
def test_auto_takes_the_faster_and_an_output_keeps_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[float], wanted: str
) -> None:
    monkeypatch.setattr(embed_backend, "_seconds", lambda texts, contenders: seconds)
    path = put_input(tmp_path)
    ran = run(path, "--backend", "auto", "--device", "cpu")
    assert (ran.status, ran.manifest.fingerprint.backend) == (0, wanted)
    assert f"backend {wanted}: openvino makes {seconds[0] / seconds[1]:.2f} times" in ran.stderr
    monkeypatch.setattr(embed_backend, "_seconds", lambda texts, contenders: seconds[::-1])
    again = run(path, "--backend", "auto", "--device", "cpu")
    assert again.manifest.version == 1
    assert again.manifest.fingerprint.backend == wanted


@pytest.mark.model
def test_auto_really_measures_both_on_the_texts_of_the_run(
    run_job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    measure = embed_backend._seconds

    def spy(texts, contenders):
        seen.append((list(texts), [options.backend for options, _ in contenders], measure(texts, contenders)))
        return seen[-1][2]

    monkeypatch.setattr(embed_backend, "_seconds", spy)
    ran = run_job(put_input(tmp_path), "--backend", "auto", "--device", "cpu")
    [(texts, backends, seconds)] = seen
    assert texts == [f"text number {i} of some" for i in range(40)]
    assert backends == ["torch", "openvino"]
    assert all(0 < s < 60 for s in seconds)
    assert ran.manifest.fingerprint.backend == backends[seconds.index(min(seconds))]


def test_auto_stays_with_torch_where_openvino_is_not(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_backend, "_has_openvino", lambda: False)
    ran = run(put_input(tmp_path), "--backend", "auto", "--device", "cpu")
    assert (ran.status, ran.manifest.fingerprint.backend) == (0, "torch")
    assert "backend torch: OpenVINO is not installed" in ran.stderr


def test_auto_is_refused_where_the_workers_are_elsewhere(tmp_path: Path) -> None:
    args = embed.arguments().parse_args(["--input", "in", "--output", str(tmp_path / "out"), "--backend", "auto"])
    with pytest.raises(InputError, match="--backend auto: measures on this machine, and the workers are elsewhere"):
        embed_backend.settle_backend(embed.config_of(args), runs_here=False)
