import torch

from clipkit.losses import positives_by_content


def test_equal_images_and_equal_texts_are_positives() -> None:
    image_keys = torch.tensor([1, 2, 1, 4])
    text_keys = torch.tensor([7, 8, 9, 8])
    expected = torch.tensor(
        [
            [True, False, True, False],
            [False, True, False, True],
            [True, False, True, False],
            [False, True, False, True],
        ]
    )
    assert torch.equal(positives_by_content(image_keys, text_keys), expected)


def test_distinct_content_gives_the_diagonal() -> None:
    keys = torch.arange(5)
    assert torch.equal(positives_by_content(keys, keys), torch.eye(5, dtype=torch.bool))
