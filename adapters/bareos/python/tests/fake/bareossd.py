# SPDX-License-Identifier: MIT OR Apache-2.0
"""A stand-in for the built-in module ``bareossd``, for unit tests without a host."""

import _listener

_listener.fill(
    globals(),
    {
        **_listener.numbered(
            "bsdVarJob bsdVarLevel bsdVarType bsdVarJobId bsdVarClient bsdVarPool bsdVarPoolType bsdVarStorage "
            "bsdVarMediaType bsdVarJobName bsdVarJobStatus bsdVarVolumeName bsdVarJobErrors bsdVarJobFiles bsdVarJobBytes"
        ),
        "bsdEventJobStart": 1,
        "bsdEventJobEnd": 2,
    },
    {
        "bsdVarJobName": "backup.2026-11-22_01.02.03_04",
        "bsdVarLevel": ord("F"),
        "bsdVarJobId": 7,
        "bsdVarJobBytes": 4096,
        "bsdVarJobFiles": 3,
    },
)
