"""A training step of ViT-B/32 by the peers; `train_step.py` says what they do."""

import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.benchmarks import libraries
from tests.benchmarks.train_step import ARCHITECTURE, MICRO, RANK, STEPS, optim, pairs_of
from tests.benchmarks.worker import Pace, Work

if TYPE_CHECKING:
    import torch

SCALE = 1 / 0.07


def by_open_clip(batch: int, lora: bool, **which: str) -> Work:
    """`train_one_epoch`, set up as `open_clip_train.main` does."""
    import open_clip
    import torch
    from open_clip_train.params import parse_args  # type: ignore[import-untyped]
    from open_clip_train.scheduler import cosine_lr  # type: ignore[import-untyped]
    from open_clip_train.train import train_one_epoch  # type: ignore[import-untyped]

    from clipkit.data.preprocess import normalize

    device, settings = which["device"], optim()
    model, _, tokenizer = libraries.open_clip(**{**which, "precision": "float32"})
    model.output_dict = True
    micro = min(batch, MICRO)
    told = f"--model {ARCHITECTURE} --precision {which['precision']} --batch-size {micro}"
    told += f" --device {device} --log-every-n-steps 1 --grad-clip-norm {settings.clip_norm}"
    told += f" --accum-freq {batch // micro}"
    args = parse_args(told.split())
    args.distill, args.rank, args.world_size, args.wandb = False, 0, 1, False
    optimizer = torch.optim.AdamW(
        open_clip_groups(model, settings.weight_decay),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    scheduler = cosine_lr(optimizer, settings.lr, settings.warmup_steps, STEPS)
    images = clip_images()

    class Data:
        """What `train_one_epoch` wants to know of data, and of who hears what a step came to."""

        num_batches, num_samples = STEPS * batch // micro, STEPS * batch

        def __init__(self, pace: Pace) -> None:
            self.pace, self.dataloader = pace, self
            self.losses: list[float] = []

        def set_epoch(self, epoch: int) -> None:
            """There is one."""

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for step in range(STEPS):
                pixels, captions = pairs_of(step, batch)
                ready, tokens = normalize(pixels, images).contiguous(), tokenizer(captions)
                if not self.pace.begin():
                    return
                yield from zip(ready.split(micro), tokens.split(micro), strict=True)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            """Hear what is meant for tensorboard."""
            if name == "train/loss":
                self.losses.append(value)
                self.pace.done(list(self.losses))

    def loop(pace: Pace) -> None:
        data = Data(pace)
        train_one_epoch(
            model,
            {"train": data},
            open_clip.ClipLoss(),
            0,
            optimizer,
            None,
            scheduler,
            None,
            args,
            tb_writer=data,
        )

    return Work(loop=loop)


def clip_images() -> Any:
    """Return CLIP's mean and deviation of pixels."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    from clipkit.types import Preprocessing

    return Preprocessing(224, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)


def open_clip_groups(model: "torch.nn.Module", weight_decay: float) -> list[dict[str, Any]]:
    """Return parameters by weight decay as `open_clip_train.main` has them."""
    parts: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        plain = any(word in name for word in ("bn", "ln", "bias", "logit_scale"))
        parts[parameter.ndim < 2 or plain].append(parameter)
    return [
        {"params": parts[True], "weight_decay": 0.0},
        {"params": parts[False], "weight_decay": weight_decay},
    ]


def by_sentence_transformers(batch: int, lora: bool, **which: str) -> Work:
    """Its trainer, with its ranking loss in both directions."""
    from PIL import Image
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses as library
    from torch.utils.data import DataLoader
    from transformers import TrainerCallback

    model = libraries.sentence_transformers(**which)
    if lora:
        from peft import LoraConfig, inject_adapter_in_model

        linear = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        # Its `add_adapter` asks for a newer peft than there need be.
        settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=linear)
        inner = next(part for part in model.modules() if hasattr(part, "base_model_prefix"))
        inject_adapter_in_model(settings, inner)
    ways: Any = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    if batch > MICRO:
        loss = library.CachedMultipleNegativesRankingLoss(
            model, scale=SCALE, mini_batch_size=MICRO, **ways
        )
    else:
        loss = library.MultipleNegativesRankingLoss(model, scale=SCALE, **ways)
    rows = []
    for step in range(1 + 4):
        pixels, captions = pairs_of(step, batch)
        shown = [Image.fromarray(one.numpy()) for one in pixels]
        rows += [{"image": a, "text": b} for a, b in zip(shown, captions, strict=True)]

    class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
        """Takes the rows in their order."""

        def get_train_dataloader(self) -> Any:
            return DataLoader(rows, batch_size=batch, collate_fn=self.data_collator)  # type: ignore[arg-type]

        def compute_loss(self, *given: Any, **named: Any) -> Any:
            found = super().compute_loss(*given, **named)
            self.last = float((found[0] if isinstance(found, tuple) else found).detach())
            return found

    def loop(pace: Pace) -> None:
        values: list[float] = []

        class Step(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop = not pace.begin()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                values.append(trainer.last)
                pace.done(list(values))

        settings = optim()
        with tempfile.TemporaryDirectory() as folder:
            args = SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch,
                max_steps=STEPS,
                learning_rate=settings.lr,
                weight_decay=settings.weight_decay,
                adam_beta1=settings.beta1,
                adam_beta2=settings.beta2,
                adam_epsilon=settings.eps,
                max_grad_norm=settings.clip_norm,
                warmup_steps=settings.warmup_steps,
                lr_scheduler_type="cosine",
                bf16=which["precision"] == "bf16",
                use_cpu=which["device"] == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            from datasets import Dataset

            trainer = Trainer(
                model=model,
                args=args,
                train_dataset=Dataset.from_list([{"image": "", "text": ""}]),
                loss=loss,
                callbacks=[Step()],
            )
            trainer.train()

    return Work(loop=loop)
