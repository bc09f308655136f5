import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses.labels import NO_LABEL, join_views


@pytest.mark.parametrize("views", [1, 2])
def test_rows_are_of_one_class_when_they_show_one_label_or_one_image(views: int) -> None:
    labels = [3, NO_LABEL, 3, 2**62, NO_LABEL, -7]
    first, second = torch.randn(2, len(labels), 4)
    rows, classes = join_views(first, second if views == 2 else None, torch.tensor(labels))
    assert torch.equal(rows, torch.cat([first, second][:views]))
    images = list(range(len(labels))) * views
    for i, one in enumerate(images):
        for j, other in enumerate(images):
            same = one == other or labels[one] == labels[other] != NO_LABEL
            assert bool(classes[i] == classes[j]) == same


def test_without_labels_each_image_is_its_own_class() -> None:
    first = torch.randn(3, 2)
    assert join_views(first, first, None)[1].tolist() == [0, 1, 2, 0, 1, 2]


def test_one_view_without_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match="give labels or a second view"):
        join_views(torch.randn(3, 2), None, None)
