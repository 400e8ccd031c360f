# SPDX-License-Identifier: MIT OR Apache-2.0
"""Can not be compiled: the next line is no Python."""

def start_backup_file(savepkt:
