# SPDX-License-Identifier: MIT OR Apache-2.0
"""``python3 -m bakthat``: the command."""

from bakthat import main

if __name__ == "__main__":
    main()
