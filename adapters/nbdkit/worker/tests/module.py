"""Calls every function of the module nbdkit, outside of a connection."""
import nbdkit


def raises(kind, function, *arguments, **keywords):
    try:
        result = function(*arguments, **keywords)
    except kind:
        return
    raise AssertionError("%r%r gave %r" % (function, arguments, result))


numbers = {
    "THREAD_MODEL_SERIALIZE_CONNECTIONS": 0, "THREAD_MODEL_SERIALIZE_ALL_REQUESTS": 1,
    "THREAD_MODEL_SERIALIZE_REQUESTS": 2, "THREAD_MODEL_PARALLEL": 3,
    "FLAG_MAY_TRIM": 1, "FLAG_FUA": 2, "FLAG_REQ_ONE": 4, "FLAG_FAST_ZERO": 8,
    "FUA_NONE": 0, "FUA_EMULATE": 1, "FUA_NATIVE": 2,
    "CACHE_NONE": 0, "CACHE_EMULATE": 1, "CACHE_NATIVE": 2,
    "EXTENT_HOLE": 1, "EXTENT_ZERO": 2,
}
for name, value in numbers.items():
    assert getattr(nbdkit, name) == value and type(getattr(nbdkit, name)) is int, name
functions = """debug export_name set_error parse_size shutdown disconnect parse_probability is_tls stdio_safe nanosleep
    peer_pid peer_uid peer_gid peer_security_context read_password parse_delay peer_tls_dn peer_tls_issuer_dn""".split()
for name in functions:
    assert callable(getattr(nbdkit, name)), name
assert nbdkit.__name__ == "nbdkit" and nbdkit.__doc__
for name in ["peer_name", "parse_bool", "parse_int", "realpath", "absolute_path", "error"]:
    assert not hasattr(nbdkit, name), name

assert nbdkit.debug("nobody sees it") is None
raises(TypeError, nbdkit.debug, 5)
raises(TypeError, nbdkit.debug)
raises(TypeError, nbdkit.debug, msg="x")
raises(ValueError, nbdkit.debug, "a\0b")
raises(UnicodeEncodeError, nbdkit.debug, "\ud800")
raises(RuntimeError, nbdkit.export_name)
raises(TypeError, nbdkit.export_name, 1)
assert nbdkit.set_error(5) is None and nbdkit.set_error(True) is None
raises(TypeError, nbdkit.set_error, "x")
raises(TypeError, nbdkit.set_error, 1.5)
raises(OverflowError, nbdkit.set_error, 2 ** 40)
assert nbdkit.parse_size("17M") == 17825792 and nbdkit.parse_size("1s") == 512
raises(TypeError, nbdkit.parse_size, 17)
raises(TypeError, nbdkit.parse_size, b"1")
raises(ValueError, nbdkit.parse_size, "foo")
raises(ValueError, nbdkit.parse_size, "8E")
assert abs(nbdkit.parse_probability("p", "1:10") - 0.1) < 1e-9
raises(ValueError, nbdkit.parse_probability, "p", "nan")
raises(TypeError, nbdkit.parse_probability, "0.5")
assert nbdkit.parse_delay("d", "1500ms") == (1, 500000000)
raises(ValueError, nbdkit.parse_delay, "d", "soon")
assert nbdkit.is_tls() is False
assert nbdkit.stdio_safe() is True
assert nbdkit.nanosleep(0, 1) is None
raises(OverflowError, nbdkit.nanosleep, -1, 0)
for name in ["peer_pid", "peer_uid", "peer_gid", "peer_security_context", "peer_tls_dn", "peer_tls_issuer_dn"]:
    raises(ValueError, getattr(nbdkit, name))
assert nbdkit.disconnect(True) is None
raises(TypeError, nbdkit.disconnect)
raises(TypeError, nbdkit.shutdown, 1)
assert nbdkit.read_password("the text") == b"the text"
raises(ValueError, nbdkit.read_password, "-0")
raises(ValueError, nbdkit.read_password, "-")
raises(ValueError, nbdkit.read_password, "+/nonexistent")
raises(TypeError, nbdkit.read_password, b"x")
import os, tempfile
with tempfile.NamedTemporaryFile() as file:
    file.write(b"first\nsecond\n")
    file.flush()
    assert nbdkit.read_password("+" + file.name) == b"first"
    descriptor = os.open(file.name, os.O_RDONLY)
    assert nbdkit.read_password("-%d" % descriptor) == b"first"

# The script that this is (reference 3).
import sys
assert __name__ == "__main__" and sys.argv == [""] and __file__.endswith("script.py")
assert os.path.dirname(__file__) not in sys.path and "" not in sys.path
print("the module is as it should be", flush=True)


def open(readonly): pass
def get_size(h): pass
def pread(h): pass
