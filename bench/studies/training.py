"""Trains one run and saves its checkpoints: Hugging Face directories, dense weights on the grid."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bench.studies.plan import Run, Study, network, recipe
from bench.studies.texts import END_OF_TEXT, Corpus
from fixtures.low_bit import save_pretrained
from fixtures.train import Stream, fit, held_out_loss


def checkpoints(run: Run, study: Study, out: Path) -> dict[int, Path]:
    """Where the run's checkpoints are, by epoch."""
    return {epoch: out / run.name / f"epoch-{epoch:02d}" for epoch in study.audited}


def train(run: Run, study: Study, corpus: Corpus, out: Path) -> Iterator[tuple[int, float, float]]:
    """Train the run, unless all of its checkpoints are there.

    Yields:
        An audited epoch, with the loss of the last training batch and that on TEST, nats/token.
    """
    folders = checkpoints(run, study, out)
    if all(folder.is_dir() for folder in folders.values()):
        return
    tokens = torch.from_numpy(np.concatenate(corpus.trained))
    stream = Stream(tokens, torch.arange(len(tokens)))  # windows begin anywhere: no token is seen more than others
    test = torch.from_numpy(np.concatenate(corpus.tested))
    epochs = {epoch * study.epoch_steps: epoch for epoch in study.audited}
    model = network(run, study)
    for step, loss in fit(model, stream, recipe(run, study)):
        if (epoch := epochs.get(step)) is not None:
            save(model, corpus.tokenizer, study.context, folders[epoch])
            yield epoch, loss, held_out_loss(model, test, study.context, study.test_tokens // study.context)


def save(model: PreTrainedModel, tokenizer: Tokenizer, context: int, folder: Path) -> None:
    """Whole or not at all: a study that was interrupted goes on from what is there."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_pretrained(model, unfinished)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=context,
    ).save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
