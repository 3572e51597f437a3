"""Whether two checkpoints that are to exchange parts make the same tokens of a text."""

from __future__ import annotations

import dataclasses

from peelaudit.calibration import Calibration, load_calibration
from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import CalibrationError, ConfigError
from peelaudit.settings.audit import AuditConfig

__all__ = ["check_vocabulary"]


def check_vocabulary(
    config: AuditConfig, drawn: Calibration, checkpoint: Checkpoint, other: Checkpoint
) -> tuple[str, ...]:
    """Hold another checkpoint's tokenizer to that of the text that is used; what is to be said of it.

    Args:
        config: the settings that the text was drawn by.
        drawn: the text.
        checkpoint: by whose tokenizer it was cut.
        other: whose tokenizer is held to that, on this very text.

    Raises:
        ConfigError: it gives other tokens.
    """
    if config.tokenizer is not None or drawn.info.tokenizer is None:
        return ()
    path, ours = other.info.path, checkpoint.info.path
    config = dataclasses.replace(
        config, data=config.data or tuple(str(source.path) for source in drawn.sources), seq_len=drawn.info.seq_len
    )
    theirs = dataclasses.replace(config, checkpoint=path)
    try:
        found = load_calibration(theirs, other.info)
    except CalibrationError:
        words = f"that its {other.info.vocabulary} tokens are those of {ours} is told by their number alone"
        return (f"{path} has no tokenizer that can be read: {words}",)
    if found.info.tokens_sha256 == drawn.info.tokens_sha256:
        return ()
    both = ((config, checkpoint.info), (theirs, other.info))
    bare = (load_calibration(dataclasses.replace(one, bos="never"), info) for one, info in both)
    if len({calibration.info.tokens_sha256 for calibration in bare}) > 1:
        raise ConfigError(
            f"{path} has another vocabulary: its tokenizer makes other tokens of the text than that of {ours}; name "
            "one that is right for both with --tokenizer"
        )
    return (f"{path} has a tokenizer that puts something else before a text than that of {ours}, which was taken",)
