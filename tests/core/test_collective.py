"""What torch says of ranks that lost each other becomes what a user can do."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from hfx.blame import passes
from hfx.collective import explained, of_ranks
from hfx.errors import HfxError

CLOSED = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4321. This is "
    "usually caused by the other rank\nand a stack behind it"
)
LATE = "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 6000ms for recv"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError(CLOSED), "rank 3 lost the connection to another one"),
        (RuntimeError(LATE), "rank 3 waited for another one in vain"),
        (dist.DistStoreError("wait timeout after 600000ms, keys: /all"), "rank 3 waited for another one in vain"),
        (dist.DistNetworkError("something else"), "'hfx doctor' tries the way between them"),
    ],
)
def test_errors_of_gloo_and_of_the_store_are_explained_in_one_line(error: Exception, says: str) -> None:
    assert of_ranks(error)
    assert passes(error)
    told = str(explained(error, 3))
    assert says in told
    assert "\n" not in told


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), ValueError("gloo"), HfxError("gloo")])
def test_other_errors_are_not_of_ranks(error: Exception) -> None:
    assert not of_ranks(error)
