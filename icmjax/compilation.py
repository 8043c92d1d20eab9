"""Compiled programs kept on disk, so that a second run of the same shapes compiles nothing."""

import os
import sys
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

OPTION = "jax_compilation_cache_dir"
VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def cache_folder() -> Path:
    """The user's cache folder by the platform's custom, with `icmjax/compiled` below it.

    `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on
    Windows.
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "icmjax" / "compiled"


def use_compilation_cache() -> None:
    """Keep compiled programs in `cache_folder()`, unless a folder is set already.

    One is set by the environment variable JAX_COMPILATION_CACHE_DIR, or by
    `jax.config.update("jax_compilation_cache_dir", ...)`; an empty variable turns the cache off.
    """
    if VARIABLE in os.environ or getattr(jax.config, OPTION) is not None:
        return
    jax.config.update(OPTION, str(cache_folder()))
    # JAX has looked for a folder at the first compilation, of which loading a model has many.
    compilation_cache.reset_cache()
