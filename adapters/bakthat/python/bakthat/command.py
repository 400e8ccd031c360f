# SPDX-License-Identifier: MIT OR Apache-2.0
"""The command ``bakthat`` and the object with which scripts add commands of their own (reference, section 19)."""

import argparse
import logging
import os
import re
import signal
import sys
import sysconfig
import traceback
from typing import Any, Callable, Dict, List, Optional, Tuple

import bakthat
from bakthat import _native, recover
from bakthat.conf import CONFIG_FILE, BadValue, BakthatError, load_config, profile_of, write_config
from bakthat.utils import asked

log = logging.getLogger("bakthat")

# What is asked for one destination only.
FURTHER_SETTINGS = {
    "swift": (("auth_version", "Swift Auth Version: "), ("auth_url", "Swift Auth URL: ")),
    "local": (("local_path", "Local Path: "),),
    "backstay": (("repository", "Repository: "), ("repository_password_file", "Repository Password File: ")),
}
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class App:
    """Commands as decorated functions: ``cmd`` above, ``cmd_arg`` below it, one for each argument."""

    def __init__(self, **named: Any) -> None:
        self.parser = argparse.ArgumentParser(**named)
        self.subparsers = self.parser.add_subparsers(title="Subcommands", metavar="COMMAND")
        self._arguments: List[Tuple[Any, Any]] = []
        self._defaults: Dict[str, Any] = {}

    def arg(self, *arguments: Any, **named: Any) -> None:
        """A global option."""
        self.parser.add_argument(*arguments, **named)

    def defaults(self, **named: Any) -> None:
        self.parser.set_defaults(**named)

    def cmd(self, function: Any = None, *, name: Optional[str] = None, alias: Any = (), **named: Any) -> Any:
        """Makes a function a command; usable with and without parentheses."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            named.setdefault("description", named.get("help"))
            aliases = [alias] if isinstance(alias, str) else list(alias)
            parser = self.subparsers.add_parser(name or function.__name__, aliases=aliases, **named)
            for arguments, details in reversed(self._arguments):
                parser.add_argument(*arguments, **details)
            parser.set_defaults(**{"_function": function, **self._defaults})
            self._arguments, self._defaults = [], {}
            return function

        return decorate if function is None else decorate(function)

    def cmd_arg(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        """An argument of the next command; those written first come first."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self._arguments.append((arguments, named))
            return function

        return decorate

    def cmd_defaults(self, **named: Any) -> Callable[..., Any]:
        """Values that the next command gets without an option."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self._defaults.update(named)
            return function

        return decorate

    def run(self, args: Optional[List[str]] = None) -> Any:
        """Parses the arguments, calls the command, returns what it returns."""
        given = vars(self.parser.parse_args(args))
        function = given.pop("_function", None)
        if function is None:
            self.parser.error("too few arguments: name a command")
        return function(**given)


app = App(prog="bakthat", description="Compress, encrypt and upload files directly to Amazon S3/Glacier/Swift.")
app.arg("--version", action="version", version=f"bakthat {bakthat.__version__}")


def _flag(help: str) -> Dict[str, Any]:
    return {"action": "store_true", "help": help}


def port(text: str) -> int:
    return range(1 << 16).index(int(text))


# Every argument that a command can have, by the word that names it in the table of commands.
ARGUMENTS: Dict[str, Tuple[Tuple[str, ...], Dict[str, Any]]] = {
    "PATH": (("filename",), {"nargs": "?", "help": "file or directory (default: the current directory)"}),
    "NAME": (("filename",), {"help": "name of the backed up file, or of the stored one, or its beginning"}),
    "TEXT": (("query",), {"nargs": "?", "default": "", "help": "text that the names must contain"}),
    "INTERVAL": (("interval",), {"help": "interval such as 1M, 1W or 1M3W4h2s"}),
    "-d": (("-d", "--destination"), {"help": "s3, glacier, swift, backstay, local, or a plugin's"}),
    "-p": (("-p", "--profile"), {"default": "default", "help": "profile of the configuration file (%(default)s)"}),
    "-c": (("-c", "--config"), {"default": CONFIG_FILE, "help": "path to the configuration file"}),
    "-t": (("-t", "--tags"), {"default": "", "help": 'tags, as "one two"'}),
    "-k": (("-k", "--key"), {"help": "key of the monitoring service"}),
    "--prompt": (("--prompt",), {"default": "yes", "metavar": "yes|no", "help": "ask for a password (%(default)s)"}),
    "--exclude-file": (("--exclude-file",), {"help": "file with the patterns of what is left out"}),
    "--s3-reduced-redundancy": (("--s3-reduced-redundancy",), _flag("use S3's reduced redundancy storage class")),
    "--dry-run": (("--dry-run",), _flag("only say what would be done, and why")),
    "--delete-source": (("--delete-source",), _flag("delete each old archive once its backup is verified")),
    "--users": (("--users",), {"required": True, "help": "file with a line name:password for each user"}),
    "--database": (("--database",), {"default": "~/.bakthat-sync.sqlite", "help": "where rows are kept (%(default)s)"}),
    "--host": (("--host",), {"default": "127.0.0.1", "help": "address to listen on (%(default)s)"}),
    "--port": (("--port",), {"type": port, "default": 2405, "help": "port to listen on (%(default)s)"}),
}


# ------------------------------------------------------------------------------------------------- interactive commands


def _ask(prompt: str, default: str = "") -> str:
    return asked(input, prompt, "nothing was written").strip() or default


def _choose(prompt: str, default: str, fits: Callable[[str], bool], wrong: str) -> str:
    """An answer that fits, in small letters; asked for again until it does."""
    while True:
        answer = _ask(prompt, default).lower()
        if fits(answer):
            return answer
        log.error(wrong)


def configure(profile: str = "default") -> None:
    """Asks for a profile's settings and writes them into the configuration file."""
    if profile == "sync":
        raise BadValue("The section sync has the settings of the sync server: give the profile another name")
    profiles = load_config()
    new = not isinstance(profiles.get(profile), dict)
    conf: Dict[str, Any] = {} if new else profiles[profile]
    try:
        conf["access_key"] = _ask("AWS Access Key: ")
        conf["secret_key"] = _ask("AWS Secret Key: ")
        conf["s3_bucket"] = _ask("S3 Bucket Name: ")
        conf["glacier_vault"] = _ask("Glacier Vault Name: ")
        wrong = "Invalid default_destination, should be s3 or glacier, swift, try again."
        destination = _choose("Default destination (s3): ", "s3", bakthat.STORAGE_BACKEND.__contains__, wrong)
        conf["default_destination"] = destination
        conf["region_name"] = _ask("Region Name (us-east-1): ", "us-east-1")
        for key, prompt in FURTHER_SETTINGS.get(destination, ()):
            conf[key] = _ask(prompt)
        if new:
            conf["encryption"] = _encryption()
    except KeyboardInterrupt:
        log.error("Cancelled by user")
        return
    write_config({**profiles, profile: conf})
    log.info("Config written in %s", CONFIG_FILE)
    log.info("Run bakthat configure_backups_rotation if needed.")


def _encryption() -> str:
    """The encryption of a new profile; scripts that answer only the original's questions get what is proposed."""
    wrong = "Invalid encryption, should be age or blowfish, try again."
    try:
        return _choose("Encryption, age or blowfish (age): ", "age", ("age", "blowfish").__contains__, wrong)
    except EOFError:
        return "age"


def configure_backups_rotation(profile: str = "default") -> None:
    """Asks for a profile's rotation settings and writes them into the configuration file."""
    profiles = load_config()
    conf = profile_of(profiles, profile)
    try:
        wrong = "Invalid number, it should be 0 or more, try again."
        rotation: Dict[str, Any] = {
            f"{unit}s": int(_choose(f"Number of {unit}s to keep: ", "", str.isdecimal, wrong))
            for unit in ("day", "week", "month")
        }
        question = "First week day (to calculate wich weekly backup keep, saturday by default): "
        wrong = "Invalid first_week_day, please choose from sunday to saturday."
        day = _choose(question, "saturday", DAYS.__contains__, wrong)
    except KeyboardInterrupt:
        log.error("Cancelled by user")
        return
    conf["rotation"] = {**rotation, "first_week_day": DAYS.index(day)}
    write_config(profiles)
    log.info("Config written in %s", CONFIG_FILE)


def sync_server(database: str, users: str, host: str, port: int) -> None:
    """Serves the sync protocol until it is interrupted."""
    server = bakthat._native.SyncServer(host, port, os.path.expanduser(database), users)
    log.info("Serving on http://%s", server.address)
    server.serve()


for function, words, help in (
    (
        bakthat.backup,
        "PATH -d --prompt -t -p -c -k --exclude-file --s3-reduced-redundancy",
        "Backup a file or a directory, the current directory if no arg is provided.",
    ),
    (bakthat.restore, "NAME -d -p -c", "Restore backup in the current directory."),
    (bakthat.show, "TEXT -d -t -p -c", "Show backups list."),
    (bakthat.ls, "-d -p -c", "List the stored objects."),
    (bakthat.info, "PATH -d -p -c", "Show when a file was last backed up."),
    (bakthat.delete, "NAME -d -p -c", "Delete a backup."),
    (bakthat.delete_older_than, "NAME INTERVAL -d -p -c", "Delete backups older than the given interval string."),
    (
        bakthat.rotate_backups,
        "NAME -d -p -c --dry-run",
        "Rotate backups using Grandfather-father-son backup rotation scheme.",
    ),
    (configure, "-p", "Set credentials and destination of a profile."),
    (configure_backups_rotation, "-p", "Configure backups rotation."),
    (bakthat.periodic_backups, "-p -c", "Show the periodic backups of the monitoring service."),
    (bakthat.sync, "", "Trigger synchronization."),
    (bakthat.reset_sync, "", "Reset synchronization."),
    (recover.migrate, "TEXT -d -p -c --delete-source --dry-run", "Move archives into the profile's repository."),
    (recover.rebuild, "-d -p -c", "Rebuild a lost database from the names of the stored objects."),
    (recover.show_glacier_inventory, "-p -c", "Show the Glacier inventory saved in S3."),
    (recover.show_local_glacier_inventory, "-p -c", "Show the local Glacier inventory."),
    (recover.backup_glacier_inventory, "-p -c", "Save the local Glacier inventory in S3."),
    (recover.restore_glacier_inventory, "-p -c", "Restore the local Glacier inventory from S3."),
    (sync_server, "--users --database --host --port", "Serve the sync protocol to other machines."),
):
    for given, named in reversed([ARGUMENTS[word] for word in words.split()]):
        app.cmd_arg(*given, **named)(function)
    app.cmd(help=help, name="sync-server" if function is sync_server else function.__name__)(function)


# ---------------------------------------------------------------------------------------------------------- the program


def _is_foreign(error: BaseException) -> bool:
    """Whether code that is neither ours nor a library's took part: a plugin, or a script's own command."""
    ours, standard = os.path.dirname(__file__), sysconfig.get_path("stdlib")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "").split(".")[0]
        path = frame.f_code.co_filename
        packaged = "site-packages" in path or "dist-packages" in path
        library = name in ("peewee", "yaml", "playhouse") or path.startswith(standard) and not packaged
        if not (library or path.startswith((ours, "<frozen"))):
            return True
    return isinstance(error, SyntaxError)  # Code that cannot be read has no frame; ours can be.


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    told = isinstance(error, (BakthatError, bakthat._native.NativeError, OSError, bakthat.peewee.DoesNotExist))
    told = told or type(error) is Exception
    return text if told and text else f"{type(error).__name__}: {text}"


class Printable(logging.Formatter):
    """Lines in which control characters are escaped: a terminal would obey those in names and in answers of servers."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return re.sub(r"[^\t\n -~\xa0-\U0010ffff]", lambda found: repr(found[0])[1:-1], super().formatMessage(record))


def _ended(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Runs the command line; ends with status 1 and one line, or a plugin's traceback, where something fails."""
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.addFilter(bakthat.BakthatFilter())
        handler.setFormatter(Printable("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.DEBUG if os.environ.get("BAKTHAT_DEBUG") else logging.INFO)
    _native.show_progress()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _ended)
    try:
        app.run()
    except KeyboardInterrupt:
        log.error("Cancelled by user")
        sys.exit(1)
    except Exception as error:
        if _is_foreign(error):
            traceback.print_exc()
        else:
            log.error("%s", _one_line(error))
            log.debug("Where it happened:", exc_info=True)
        sys.exit(1)
