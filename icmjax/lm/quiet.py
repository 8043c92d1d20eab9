"""transformers, imported when a model is loaded and without its lines on stderr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from icmjax.notebooks import let_bars_be_plain

NO_ADVICE, VERBOSITY = "TRANSFORMERS_NO_ADVISORY_WARNINGS", "TRANSFORMERS_VERBOSITY"
WITHOUT_TORCH = "ICMJAX_WITHOUT_TORCH"  # set by a command in a process of its own


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Import transformers and let it write errors alone, unless the environment says otherwise.

    On import it advises to install torch, of which nothing here has need. While it reads a folder
    it warns of fields that are checked here. Its settings are afterwards as they were before.
    """
    let_bars_be_plain()
    is_ours = NO_ADVICE not in os.environ
    if is_ours:
        os.environ[NO_ADVICE] = "1"
    try:
        if os.environ.get(WITHOUT_TORCH) == "1":
            _import_without_torch()
        # The submodule: `transformers.logging` is an alias that type checkers do not know.
        from transformers.utils import logging
    finally:
        if is_ours:
            del os.environ[NO_ADVICE]
    if VERBOSITY in os.environ:
        yield
        return
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _import_without_torch() -> None:
    """Import transformers as if torch were not installed.

    Else it imports torch wherever there is one, a third or more of the CPU time that the import of
    a configuration takes. It asks once whether there is a torch: in this process it says no from
    here on, whoever asks it. Other libraries find torch.
    """
    if "transformers" in sys.modules or "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # documented: "not found"
    try:
        from transformers.utils import is_torch_available

        is_torch_available()
    finally:
        del sys.modules["torch"]
