#!/usr/bin/env -S backstay nbdkit python
"""A file or block device as a disk: backstay nbdkit python file.py path=/some/image

API version 1: pread returns bytes, callbacks get no flags.
"""
import errno
import os

import nbdkit

path = None


def config(key, value):
    global path
    if key != "path":
        raise ValueError("unknown parameter %s" % key)
    path = os.path.realpath(value)


def config_complete():
    if path is None:
        raise ValueError("path=FILE is missing")


def open(readonly):
    return os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)


def close(fd):
    os.close(fd)


def get_size(fd):
    return os.lseek(fd, 0, os.SEEK_END)


def pread(fd, count, offset):
    data = os.pread(fd, count, offset)
    # The end of a file that shrank meanwhile.
    return data + bytes(count - len(data))


def pwrite(fd, data, offset):
    try:
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        # What the client is told: without it, every error is EIO.
        nbdkit.set_error(error.errno or errno.EIO)
        raise


def flush(fd):
    os.fdatasync(fd)
