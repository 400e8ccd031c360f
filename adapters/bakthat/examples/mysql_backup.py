#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Backs up the databases of a MySQL or MariaDB server: a dump of each, stored under one name, rotated.

    mysql_backup.py [--defaults-file FILE] [--profile PROFILE] [--destination DESTINATION] DATABASE...

Meant for cron: nothing is asked. The server's address and login come from the usual option files, or from
``--defaults-file``. ``BAKTHAT_PASSWORD`` encrypts the archive. With a ``rotation`` in the profile, old backups of
these names are deleted.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys

from bakthat.conf import load_config
from bakthat.helper import BakHelper


def dump(database, defaults_file):
    """Writes the dump of one database into the current folder; half a dump is an error."""
    program = shutil.which("mariadb-dump") or shutil.which("mysqldump")
    if program is None:
        sys.exit("mysql_backup.py needs mariadb-dump or mysqldump")
    options = [f"--defaults-file={defaults_file}"] if defaults_file else []
    with open(f"{database}.sql", "wb") as out:
        command = [program, *options, "--single-transaction", "--routines", "--events", "--databases", database]
        subprocess.run(command, stdout=out, check=True)


def main():
    parser = argparse.ArgumentParser(description="Back up databases of a MySQL or MariaDB server.")
    parser.add_argument("databases", nargs="+", metavar="DATABASE")
    parser.add_argument("--defaults-file", help="option file with the server's address and login")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--destination")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    defaults_file = os.path.abspath(given.defaults_file) if given.defaults_file else None
    for database in given.databases:
        name = f"mysql-{database}"
        password = os.environ.get("BAKTHAT_PASSWORD", "")
        helper = BakHelper(
            name, profile=given.profile, destination=given.destination, password=password, tags=["mysql"]
        )
        with helper:
            dump(database, defaults_file)
            helper.backup(f"{database}.sql")
            if load_config()[given.profile].get("rotation"):
                helper.rotate()


if __name__ == "__main__":
    main()
