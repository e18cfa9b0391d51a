"""Third-party chatter that would reach the user's terminal, switched off before its libraries are imported."""

from __future__ import annotations

import logging
import os
import warnings

from hfx.redact import redact_logs


def quieten() -> None:
    """Set what the libraries read when they are imported; what the user has set stays."""
    redact_logs()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # DeepSpeed sets its logger's level anew when it is imported; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    # Torch's agent tells of a process that ended; hfx does, in words.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # DeepSpeed calls what torch 2.13 renamed.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    # On some CPUs it remarks on a kernel of 4-bit inference that is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # transformers imports torchao wherever it is installed.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*", category=UserWarning)
