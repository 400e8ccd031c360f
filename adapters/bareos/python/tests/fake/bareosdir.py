# SPDX-License-Identifier: MIT OR Apache-2.0
"""A stand-in for the built-in module ``bareosdir``, for unit tests without a host."""

import _listener

_listener.fill(
    globals(),
    {
        **_listener.numbered(
            "bDirVarJob bDirVarLevel bDirVarType bDirVarJobId bDirVarClient bDirVarNumVols bDirVarPool bDirVarStorage "
            "bDirVarWriteStorage bDirVarReadStorage bDirVarCatalog bDirVarMediaType bDirVarJobName bDirVarJobStatus "
            "bDirVarPriority bDirVarVolumeName bDirVarCatalogRes bDirVarJobErrors bDirVarJobFiles"
        ),
        "bDirVarJobBytes": 26,
        **_listener.numbered("bDirEventJobStart bDirEventJobEnd bDirEventJobInit bDirEventJobRun"),
    },
    {
        "bDirVarJobName": "backup.2026-11-22_01.02.03_04",
        "bDirVarLevel": ord("I"),
        "bDirVarType": ord("B"),
        "bDirVarJobId": 7,
        "bDirVarClient": "client-fd",
        "bDirVarJobStatus": ord("C"),
        "bDirVarPriority": 10,
        "bDirVarJobErrors": 1,
        "bDirVarJobBytes": 4096,
        "bDirVarJobFiles": 3,
        "bDirVarNumVols": 1,
        "bDirVarPool": "Full",
        "bDirVarStorage": "File",
        "bDirVarMediaType": "File",
    },
)
