# SPDX-License-Identifier: MIT OR Apache-2.0
"""A plugin that keeps a journal: a line of JSON for each backup, and for each one that was deleted.

Copy it to ``~/.bakthat_plugins`` and name it in the profile:

    default:
      plugins: [journal.Journal]
      journal: /var/log/bakthat-journal
"""

import json
import os
import time

from bakthat.plugin import Plugin


class Journal(Plugin):
    def activate(self):
        self.path = os.path.expanduser(self.conf.get("journal", "~/.bakthat-journal"))
        self.on_backup += self.stored
        self.on_delete += self.deleted
        self.on_delete_older_than += self.all_deleted
        self.on_rotate_backups += self.all_deleted

    def stored(self, session_id, backup):
        self.write(session_id, "stored", backup)

    def deleted(self, session_id, backup):
        self.write(session_id, "deleted", backup)

    def all_deleted(self, session_id, backups):
        for backup in backups:
            self.deleted(session_id, backup)

    def write(self, session_id, what, backup):
        line = {
            "time": int(time.time()),
            "session": session_id,
            "what": what,
            "name": backup.stored_filename,
            "size": backup.size,
        }
        with open(self.path, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")
        self.log.debug("%s is in the journal", backup.stored_filename)

    def deactivate(self):
        self.log.debug("The journal %s is closed", self.path)
