import pytest

from clipkit.launch import Share, told_by_launcher, told_to_use_cpu
from tests.processes import told_to_process


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    assert told_by_launcher() == Share(0, 1, 0, "")
    assert not told_to_use_cpu()


def test_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(2):
        for name, value in told_to_process(rank, 2, 1234).items():
            monkeypatch.setenv(name, value)
        shares.append(told_by_launcher())
    assert [(s.rank, s.count, s.local_rank) for s in shares] == [(0, 2, 0), (1, 2, 1)]
    assert shares[0].launch == shares[1].launch
    assert told_to_use_cpu()
    monkeypatch.setenv("MASTER_PORT", "4321")
    assert told_by_launcher().launch != shares[1].launch
