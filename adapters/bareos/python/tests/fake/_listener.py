# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the stand-ins of the two event-listener modules share. Numbers are those of the contract."""

RETURN_CODES = {
    name: number
    for number, name in enumerate(
        "bRC_OK bRC_Stop bRC_Error bRC_More bRC_Term bRC_Seen bRC_Core bRC_Skip bRC_Cancel".split()
    )
}
MESSAGES = {"M_FATAL": 3, "M_ERROR": 4, "M_WARNING": 5, "M_INFO": 6}


def numbered(names, first=1):
    return {name: number for number, name in enumerate(names.split(), first)}


def fill(module, constants, defaults):
    """Gives a module its constants and functions, and ``reset()`` for tests."""
    module.update(RETURN_CODES, **MESSAGES, **constants)
    module.update(variables={}, messages=[], registered=set())

    def reset():
        module["variables"].clear()
        module["variables"].update({constants[name]: value for name, value in defaults.items()})
        module["messages"].clear()
        module["registered"].clear()

    module.update(
        reset=reset,
        GetValue=lambda number: module["variables"].get(number),
        RegisterEvents=lambda events: module["registered"].update(events) or 0,
        JobMessage=lambda kind, text=None: module["messages"].append((kind, text)),
        DebugMessage=lambda level, text=None: None,
    )
    reset()
