# SPDX-License-Identifier: MIT OR Apache-2.0
"""A storage-daemon or director plugin that writes what it hears, as lines of JSON, to the file ``log``.

Options: ``instance``'s own ``tag`` stands in each line. ``raises``, ``hangs``, ``dies`` name an event by its number;
``answers=EVENT,CODE`` is what it answers; ``sets=NAME`` is the volume name that it gives when the job starts;
``says=KIND,EVENT`` is a message of this kind.
"""

import json
import os
import time

try:
    import bareosdir as daemon

    VARIABLES = daemon.bDirVariable
    VOLUME_NAME = daemon.bwDirVarVolumeName
    EVENTS = daemon.bDirEventType
except ImportError:
    import bareossd as daemon

    VARIABLES = daemon.bsdVariable
    VOLUME_NAME = daemon.bsdwVarVolumeName
    EVENTS = daemon.bsdEventType

options = {}


def note(what):
    line = {"tag": options.get("tag", ""), "daemon": daemon.__name__, **what}
    with open(options["log"], "a") as log:
        log.write(json.dumps(line) + "\n")


def pair(name):
    """The two numbers of an option, ``-1`` where it is not given."""
    return [int(word) for word in options.get(name, "-1,-1").split(",")]


def load_bareos_plugin(plugindef):
    options.update(part.split("=", 1) for part in plugindef.split(":") if part)
    note({"load": plugindef, "instances": daemon.GetInstanceCount()})
    daemon.RegisterEvents(list(EVENTS.values()))
    return daemon.bRC_OK


def parse_plugin_definition(plugindef):
    note({"parse": plugindef})
    return daemon.bRC_OK


def handle_plugin_event(event):
    name = {number: name for name, number in EVENTS.items()}[event]
    values = {key: daemon.GetValue(number) for key, number in VARIABLES.items()}
    note({"event": name, "values": values})
    if event == int(options.get("raises", -1)):
        raise ValueError(f"raised in {name}")
    if event == int(options.get("hangs", -1)):
        time.sleep(600)
    if event == int(options.get("dies", -1)):
        os._exit(5)
    if "sets" in options and event == 1:
        daemon.SetValue(VOLUME_NAME, options["sets"])
    kind, at = pair("says")
    if event == at:
        daemon.JobMessage(kind, f"said in {name}")
    at, code = pair("answers")
    return code if event == at else daemon.bRC_OK
