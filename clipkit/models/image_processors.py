"""How images are prepared for a model of transformers, as far as `Preprocessing` can say it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clipkit.errors import ModelError
from clipkit.types import Preprocessing, per_channel

PREFIX = "hf:"
"""What names of models of transformers begin with."""

RESAMPLE = {2: "bilinear", 3: "bicubic"}
ODD_OPTIONS = {"include_top", "max_num_patches"}
STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
"""The steps of an image processor that `Preprocessing` can say, and options that it cannot."""

BACKENDS = "transformers.image_processing_backends"
PROCESSOR_STEPS = ("_preprocess", "process_image", "resize", "center_crop", "rescale", "normalize")
"""The methods of an image processor that most kinds share, and the module that has them."""

KNOWN_PROCESSORS = {"EfficientNetImageProcessor", "EfficientNetImageProcessorPil"}
"""Those with code of their own that `read_preprocessing` knows: `rescale_offset`, `include_top`."""


def read_preprocessing(spec: str) -> Preprocessing:
    """Read how a model's image processor prepares images, as far as `Preprocessing` can say it.

    Whatever the processor multiplies pixels with, shifts them by, and divides them by is one mean
    and one standard deviation in the end.

    Raises:
        ModelError: it cannot be read, or does something else; names the option.
    """
    from transformers import AutoImageProcessor  # takes seconds

    with refusing(spec, "image processor"):
        processor = AutoImageProcessor.from_pretrained(spec, backend="pil", trust_remote_code=False)

    option = _Options(spec, processor)
    switches = {name for name in dir(processor) if name.startswith("do_")} - STEPS
    for name in sorted(switches | ODD_OPTIONS):
        option.need(name, not option[name])
    kind = type(processor)
    if kind.__name__ not in KNOWN_PROCESSORS and any(
        getattr(kind, step).__module__ != BACKENDS for step in PROCESSOR_STEPS
    ):
        raise ModelError(
            f"{PREFIX}{spec}: its images are prepared in a way that clipkit does not have:"
            f" {kind.__name__} has code of its own"
        )
    option.need("do_resize", option["do_resize"])
    option.need("resample", option["resample"] in RESAMPLE)
    resize, resize_to, size = _geometry(option)
    factor = 255 * option["rescale_factor"] if option["do_rescale"] else 255.0
    offset = 1.0 if option["do_rescale"] and option["rescale_offset"] else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if option["do_normalize"]:
        mean, std = per_channel(option["image_mean"]), per_channel(option["image_std"])
    return Preprocessing(
        size=size,
        mean=per_channel([(value + offset) / factor for value in mean]),
        std=per_channel([value / factor for value in std]),
        interpolation=RESAMPLE[option["resample"]],
        resize=resize,
        resize_to=resize_to,
        crop="floor",
    )


class _Options:
    """The options of an image processor, and how to refuse one."""

    def __init__(self, spec: str, processor: Any) -> None:
        self.spec = spec
        self.processor = processor

    def __getitem__(self, name: str) -> Any:
        """Return an option; `None` where the processor has none of that name."""
        return getattr(self.processor, name, None)

    def sides(self, name: str) -> dict[str, int]:
        """Return the lengths that an option names, in pixels."""
        sides = dict(self[name] or {}).items()
        return {side: int(length) for side, length in sides if length is not None}

    def need(self, name: str, fine: object) -> None:
        """Raise ModelError unless an option is one that `Preprocessing` can say."""
        if not fine:
            sized = name in ("size", "crop_size") and self[name] is not None
            value = self.sides(name) if sized else self[name]
            raise ModelError(
                f"{PREFIX}{self.spec}: its images are prepared in a way that clipkit does not"
                f" have: its image processor has {name} = {value}"
            )


def _geometry(option: _Options) -> tuple[str, int | None, int]:
    """Return `resize`, `resize_to` and `size` of `Preprocessing`."""
    size = option.sides("size")
    crop = option.sides("crop_size") if option["do_center_crop"] else {}
    if crop:
        option.need(
            "crop_size", set(crop) == {"height", "width"} and crop["height"] == crop["width"]
        )
    if set(size) == {"shortest_edge"}:
        option.need("do_center_crop", crop)
        option.need("size", size["shortest_edge"] >= crop["height"])
        resize_to = None if size["shortest_edge"] == crop["height"] else size["shortest_edge"]
        return "shortest", resize_to, crop["height"]
    option.need("size", set(size) == {"height", "width"} and size["height"] == size["width"])
    side = crop["height"] if crop else size["height"]
    option.need("crop_size", side <= size["height"])
    return "squash", None if side == size["height"] else size["height"], side


@contextmanager
def refusing(spec: str, what: str) -> Iterator[None]:
    """Turn whatever transformers raises on what it cannot use into one sentence."""
    try:
        yield
    except Exception as error:  # there is no end of the kinds: of files, formats and shapes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0].partition(". ")[0].strip().rstrip(".")
        raise ModelError(f"{PREFIX}{spec}: transformers cannot use its {what}: {reason}") from None
