"""The cffi extension has no types of its own; fastpath.native is where they begin."""

from typing import Any

ffi: Any
lib: Any
