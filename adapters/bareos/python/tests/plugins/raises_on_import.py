# SPDX-License-Identifier: MIT OR Apache-2.0
"""Raises while it is imported: by default ModuleNotFoundError, the commonest mistake of an installation."""

import a_module_that_is_not_installed  # noqa: F401
