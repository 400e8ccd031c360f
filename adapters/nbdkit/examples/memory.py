#!/usr/bin/env -S backstay nbdkit python
"""A disk in memory: backstay nbdkit python memory.py size=64M

API version 2. Memory is taken page by page as it is written; what was never written is a hole.
Any number of requests may run at a time.
"""
import nbdkit

API_VERSION = 2

PAGE = 64 * 1024
size = 0
pages = {}


def config(key, value):
    global size
    if key != "size":
        raise ValueError("unknown parameter %s" % key)
    size = nbdkit.parse_size(value)


def config_complete():
    if size == 0:
        raise ValueError("size=N is missing")


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    return None


def get_size(h):
    return size


def can_multi_conn(h):
    return True


def can_fast_zero(h):
    return True


def pieces(offset, count):
    """The parts of a range that lie in one page each: page number, start in the page, length, start in the range."""
    done = 0
    while done < count:
        number, start = divmod(offset + done, PAGE)
        length = min(PAGE - start, count - done)
        yield number, start, length, done
        done += length


def pread(h, buf, offset, flags):
    # What is not filled reads as zeroes.
    for number, start, length, done in pieces(offset, len(buf)):
        page = pages.get(number)
        if page is not None:
            buf[done:done + length] = memoryview(page)[start:start + length]


def pwrite(h, buf, offset, flags):
    for number, start, length, done in pieces(offset, len(buf)):
        page = pages.setdefault(number, bytearray(PAGE))
        page[start:start + length] = buf[done:done + length]


def flush(h, flags):
    pass


def zero(h, count, offset, flags):
    for number, start, length, _ in pieces(offset, count):
        if length == PAGE:
            pages.pop(number, None)
        elif number in pages:
            pages[number][start:start + length] = bytes(length)


trim = zero


def extents(h, count, offset, flags):
    hole = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    for number, start, length, done in pieces(offset, count):
        yield offset + done, length, 0 if number in pages else hole
