import torch

from clipkit.train.chance import seed_chance


def test_the_same_moment_gives_the_same_numbers() -> None:
    drawn = []
    for moment in ((0, 1, 2), (0, 1, 2), (0, 12), (0, 2, 1), (1, 1, 2)):
        seed_chance(*moment)
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 4
