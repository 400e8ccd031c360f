# SPDX-License-Identifier: MIT OR Apache-2.0
"""OpenStack Swift for the tests: Debian's proxy, account, container and object servers on loopback, with TempAuth, one of each.

Run by the system's Python, which Swift is installed for. Prints the address to log in at; ends with its standard input. What is stored
lies in the folder that is its one argument, on a file system with extended attributes.

May import: the standard library, Swift and what it brings.
"""

import os
import sys
import threading

import eventlet

import swift.common.utils as utils

ACCOUNT, USER, KEY = "account", "user", "swiftpass"
PARTS = ("account", "container", "object")


class Cache:
    """In the place of memcached: the tokens of one process."""

    def __init__(self):
        self.values = {}

    def get(self, key, raise_on_error=False):
        return self.values.get(key)

    def set(self, key, value, **_):
        self.values[key] = value

    def delete(self, key, **_):
        self.values.pop(key, None)


def main():
    folder = os.path.realpath(sys.argv[1])
    os.makedirs(os.path.join(folder, "node", "disk"))
    write(folder, "swift.conf", "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = one\ndefault = yes\n")
    utils.set_swift_dir(folder)
    # They read that file when they are imported.
    from swift.common.ring import RingBuilder
    from swift.common.wsgi import loadapp

    utils.eventlet_monkey_patch()
    sockets = {part: eventlet.listen(("127.0.0.1", 0)) for part in (*PARTS, "proxy")}
    port = {part: socket.getsockname()[1] for part, socket in sockets.items()}
    common = f"[DEFAULT]\nswift_dir = {folder}\nlog_address = {folder}/no-log\n"
    for part in PARTS:
        ring(RingBuilder(2, 1, 1), folder, part, port[part])
        write(
            folder,
            f"{part}.conf",
            f"{common}devices = {folder}/node\nmount_check = false\ndisable_fallocate = true\n"
            f"[pipeline:main]\npipeline = server\n[app:server]\nuse = egg:swift#{part}\n",
        )
    write(
        folder,
        "proxy.conf",
        f"{common}[pipeline:main]\npipeline = catch_errors tempauth slo dlo proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        "[filter:catch_errors]\nuse = egg:swift#catch_errors\n"
        f"[filter:tempauth]\nuse = egg:swift#tempauth\nuser_{ACCOUNT}_{USER} = {KEY} .admin\n"
        "[filter:slo]\nuse = egg:swift#slo\n[filter:dlo]\nuse = egg:swift#dlo\n",
    )
    cache = Cache()

    def cached(app):
        def call(environment, start_response):
            environment["swift.cache"] = cache
            return app(environment, start_response)

        return call

    for part, socket in sockets.items():
        app = loadapp(os.path.join(folder, f"{part}.conf"), global_conf={"log_name": part})
        app = cached(app) if part == "proxy" else app
        eventlet.spawn(eventlet.wsgi.server, socket, app, utils.NullLogger(), custom_pool=eventlet.GreenPool())
    print(f"http://127.0.0.1:{port['proxy']}/auth/v1.0", flush=True)
    end = threading.Event()
    eventlet.spawn_n(until_the_end, end)
    while not end.is_set():
        eventlet.sleep(0.1)


def until_the_end(end):
    """Waits for the end of the standard input."""
    eventlet.tpool.execute(os.read, 0, 1)
    end.set()


def ring(builder, folder, part, port):
    """Where everything of one kind lies: on the one disk."""
    place = {"region": 1, "zone": 1, "device": "disk", "weight": 1, "meta": ""}
    address = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev({**place, **address})
    builder.rebalance()
    builder.get_ring().save(os.path.join(folder, f"{part}.ring.gz"))


def write(folder, name, text):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
