//! A script as a disk, without a server: what each callback gets and what becomes of its answer.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::path::Path;

use backstay_core::{BlockSize, Client, Disk, DiskError, Extent, OpenError, RequestFlags, Support, ThreadModel};
use common::{alone, client, disk, load, open, start, write};

const PLAIN: RequestFlags = RequestFlags { fua: false, may_trim: false, fast_zero: false, one: false };

#[test]
fn a_version_two_script_reads_and_writes_its_memory() {
    alone("a_version_two_script_reads_and_writes_its_memory", || {
        let disk = disk(
            "API_VERSION = 2\n\
             data = bytearray(1 << 20)\n\
             def open(readonly): return None\n\
             def get_size(h): return len(data)\n\
             def pread(h, buf, offset, flags):\n  assert h is None and flags == 0 and not buf.readonly and buf.format == 'B'\n  buf[:] = data[offset:offset+len(buf)]\n\
             def pwrite(h, buf, offset, flags):\n  assert buf.readonly and buf.contiguous and flags in (0, 2)\n  data[offset:offset+len(buf)] = buf\n",
        );
        let open = open(&disk);
        assert_eq!(open.info().size, 1 << 20);
        open.write(512, b"hello", PLAIN).unwrap();
        let bytes = open.read(510, 10).unwrap();
        assert_eq!((*bytes).as_ref(), b"\0\0hello\0\0\0");
        drop(bytes);
        assert!(disk.pooled() > 0);
    });
}

#[test]
fn a_version_one_script_returns_any_buffer() {
    alone("a_version_one_script_returns_any_buffer", || {
        let disk = disk(
            "import array\n\
             kinds = [lambda n: bytes(n), lambda n: bytearray(b'x' * (n + 9)), lambda n: array.array('I', [1] * n),\n\
               lambda n: memoryview(b'm' * n), lambda n: bytes(n - 1), lambda n: None, lambda n: 'x' * n, lambda n: memoryview(bytes(2 * n))[::2]]\n\
             def open(readonly): return 0\n\
             def get_size(h): return 1 << 30\n\
             def pread(h, count, offset): return kinds[offset](count)\n",
        );
        let open = open(&disk);
        for (kind, first) in [(0, 0), (1, b'x'), (2, 1), (3, b'm')] {
            for length in [8, 100_000] {
                let bytes = open.read(kind, length).unwrap();
                assert_eq!(((*bytes).as_ref().len(), (*bytes).as_ref()[0]), (length, first), "{kind}");
            }
        }
        for kind in 4..8 {
            assert_eq!(open.read(kind, 8).err(), Some(DiskError(libc::EIO)), "{kind}");
        }
    });
}

#[test]
fn a_view_that_is_kept_cannot_change_what_is_sent() {
    alone("a_view_that_is_kept_cannot_change_what_is_sent", || {
        let disk = disk(
            "API_VERSION = 2\n\
             kept = []\n\
             def open(readonly): return 1\n\
             def get_size(h): return 1 << 20\n\
             def pread(h, buf, offset, flags):\n  buf[:] = b'a' * len(buf)\n  kept.append(buf if offset == 0 else buf[:] if offset == 1 else buf.obj)\n\
             def pwrite(h, buf, offset, flags): kept.append(buf[1:])\n\
             def config(key, value):\n  if key == 'slice': kept[1][:] = b'b' * len(kept[1])\n  elif key == 'whole': kept[0][0]\n  elif key == 'object': memoryview(kept[2])\n  elif key == 'written': assert bytes(kept[3]) == b'ritten', bytes(kept[3])\n",
        );
        let open = open(&disk);
        let whole = open.read(0, 4096).unwrap();
        let slice = open.read(1, 4096).unwrap();
        let object = open.read(2, 4096).unwrap();
        open.write(0, b"written", PLAIN).unwrap();
        let script = load_again();
        script.config("slice", b"").unwrap();
        assert!(script.config("whole", b"").unwrap_err().0.contains("released"));
        assert!(script.config("object", b"").unwrap_err().0.contains("lent"));
        for bytes in [&whole, &slice, &object] {
            assert!((**bytes).as_ref().iter().all(|byte| *byte == b'a'));
        }
        // What follows gets other memory than what is kept.
        open.write(0, b"WRITTEN", PLAIN).unwrap();
        script.config("written", b"").unwrap();
        script.config("slice", b"").unwrap();
        let next = open.read(2, 4096).unwrap();
        assert!((*next).as_ref().iter().all(|byte| *byte == b'a'));
    });
}

/// Another hold on the script that runs as `__main__`.
fn load_again() -> std::sync::Arc<backstay_nbdkit_worker::Script> {
    let (_folder, path) = write("");
    load(&path).unwrap()
}

#[test]
fn memory_that_a_script_does_not_fill_shows_no_other_data() {
    alone("memory_that_a_script_does_not_fill_shows_no_other_data", || {
        let disk = disk(
            "API_VERSION = 2\n\
             def open(readonly): return 1\n\
             def get_size(h): return 1 << 20\n\
             def pread(h, buf, offset, flags):\n  if offset: buf[:] = b's' * len(buf)\n  if offset == 2: buf.release()\n\
             def pwrite(h, buf, offset, flags): pass\n",
        );
        let open = open(&disk);
        drop(open.read(1, 4096).unwrap());
        open.write(0, &[7; 4096], PLAIN).unwrap();
        assert!((*open.read(0, 4096).unwrap()).as_ref().iter().all(|byte| *byte == 0));
        // The script may give the view back itself.
        assert!((*open.read(2, 4096).unwrap()).as_ref().iter().all(|byte| *byte == b's'));
    });
}

#[test]
fn errors_are_what_set_error_said_and_tracebacks_are_one_message() {
    let name = "errors_are_what_set_error_said_and_tracebacks_are_one_message";
    let ended = alone(name, || {
        let disk = disk(
            "import nbdkit, errno, sys\n\
             API_VERSION = 2\n\
             def open(readonly): return 1\n\
             def get_size(h): return 1 << 20\n\
             def deep(): raise OSError(errno.ENOSPC, 'as deep as it gets')\n\
             def pread(h, buf, offset, flags):\n  if offset == 1: nbdkit.set_error(errno.ENOSPC)\n  if offset == 2: nbdkit.set_error(0)\n  if offset == 3: nbdkit.set_error(errno.EPERM); return\n  if offset == 4: sys.exit()\n  if offset == 5: buf[:] = b'x'\n  deep()\n",
        );
        let open = open(&disk);
        for (offset, errno) in
            [(0, libc::EIO), (1, libc::ENOSPC), (0, libc::EIO), (2, libc::EIO), (4, libc::EIO), (5, libc::EIO)]
        {
            assert_eq!(open.read(offset, 16).err(), Some(DiskError(errno)), "{offset}");
        }
        assert!(open.read(3, 16).is_ok());
        assert_eq!(open.read(0, 16).err(), Some(DiskError(libc::EIO)));
    });
    let Some(ended) = ended else { return };
    assert!(ended.stderr.contains("script.py: pread: error: Traceback"), "{}", ended.stderr);
    assert!(ended.stderr.contains("nbdkit: python[1]: error: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("in deep") && ended.stderr.contains("in pread"), "{}", ended.stderr);
    assert!(ended.stderr.contains("as deep as it gets"), "{}", ended.stderr);
}

#[test]
fn what_is_asked_at_open_and_in_which_order() {
    alone("what_is_asked_at_open_and_in_which_order", || {
        let mut text = "seen = []\n\
             def open(readonly): seen.append('open'); return 1\n\
             def pread(h, c, o): return ' '.join(seen).ljust(c).encode()\n\
             def close(h): seen.append('close')\n"
            .to_owned();
        for (name, value) in [
            ("get_size", "1 << 20"),
            ("can_write", "True"),
            ("can_zero", "True"),
            ("can_fast_zero", "True"),
            ("can_trim", "True"),
            ("can_fua", "2"),
            ("can_flush", "True"),
            ("is_rotational", "True"),
            ("can_multi_conn", "True"),
            ("can_cache", "1"),
            ("can_extents", "True"),
        ] {
            text += &format!("def {name}(h): seen.append('{name}'); return {value}\n");
        }
        let disk = disk(&text);
        let first = open(&disk);
        let all = "open get_size can_write can_zero can_fast_zero can_trim can_fua can_flush is_rotational can_multi_conn \
                   can_cache can_extents";
        assert_eq!(String::from_utf8_lossy((*first.read(0, 300).unwrap()).as_ref()).trim_end(), all);
        let info = first.info();
        assert_eq!((info.fua, info.cache), (Support::Native, Support::Emulate));
        assert!(info.can_write && info.can_zero && info.can_fast_zero && info.can_trim && info.can_flush);
        assert!(info.is_rotational && info.can_multi_conn && info.can_extents);
        drop(first);
        let second = disk.open(b"", &Client { read_only: true, ..client() }).unwrap();
        let few = format!("{all} close open get_size can_flush is_rotational can_multi_conn can_cache can_extents");
        assert_eq!(String::from_utf8_lossy((*second.read(0, 500).unwrap()).as_ref()).trim_end(), few);
        assert!(!second.info().can_write && second.info().fua == Support::None);
    });
}

#[test]
fn defaults_follow_what_is_defined() {
    alone("defaults_follow_what_is_defined", || {
        let disk = disk(
            "def open(readonly): return 1\n\
             def get_size(h): return True\n\
             def pread(h, c, o): return bytes(c)\n\
             def config(key, value): exec(value, globals())\n",
        );
        let script = load_again();
        let set = |code: &str| script.config("do", code.as_bytes()).unwrap();
        let first = open(&disk).info().clone();
        assert_eq!((first.size, first.can_write, first.can_flush, first.can_extents), (1, false, false, false));
        set(
            "def pwrite(h, b, o): pass\ndef flush(h): pass\ndef zero(h, c, o, m): pass\ndef trim(h, c, o): pass\ndef cache(h, c, o, f): pass\ndef extents(h, c, o, f): return 5",
        );
        let second = open(&disk).info().clone();
        assert!(second.can_write && second.can_flush && second.can_zero && second.can_trim && second.can_extents);
        assert!(!second.can_fast_zero && !second.can_multi_conn && !second.is_rotational);
        assert_eq!((second.fua, second.cache), (Support::Emulate, Support::Native));
        // Only the object True is true; what cannot be called is missing.
        set("def can_write(h): return 1\nflush = 5\ndef can_flush(h): return [1]");
        let third = open(&disk).info().clone();
        assert!(!third.can_write && !third.can_flush);
        set("del can_write");
        for (code, refused) in [
            ("def can_fua(h): return None", true),
            ("def can_fua(h): return -1", true),
            ("def can_fua(h): return 7", false),
            ("def can_fua(h): return True", false),
            ("def can_trim(h): raise ValueError('no')", true),
        ] {
            set(code);
            assert_eq!(matches!(disk.open(b"", &client()), Err(OpenError::Refused(_))), refused, "{code}");
        }
    });
}

#[test]
fn sizes_that_are_none_refuse_the_export_and_close_it() {
    alone("sizes_that_are_none_refuse_the_export_and_close_it", || {
        let disk = disk(
            "class Index:\n  def __index__(self): return 4096\n\
             closed = []\n\
             def open(readonly): return 1\n\
             def close(h): closed.append(h)\n\
             def pread(h, c, o): return bytes([len(closed)]) * c\n\
             def config(key, value): globals()['get_size'] = lambda h: eval(value)\n\
             def get_size(h): return 512\n",
        );
        let script = load_again();
        for (size, value) in [("0", 0), ("2 ** 63 - 1", i64::MAX.unsigned_abs()), ("Index()", 4096)] {
            script.config("size", size.as_bytes()).unwrap();
            assert_eq!(open(&disk).info().size, value);
        }
        for size in ["-1", "-5", "2 ** 63", "1.5", "'5'", "None", "1 / 0"] {
            script.config("size", size.as_bytes()).unwrap();
            assert!(matches!(disk.open(b"", &client()), Err(OpenError::Refused(_))), "{size}");
        }
        script.config("size", b"512").unwrap();
        assert_eq!((*open(&disk).read(0, 1).unwrap()).as_ref(), [10]);
    });
}

#[test]
fn block_sizes_are_checked() {
    alone("block_sizes_are_checked", || {
        let disk = disk(
            "def open(readonly): return 1\n\
             def get_size(h): return 512\n\
             def pread(h, c, o): return bytes(c)\n\
             def config(key, value): globals()['block_size'] = lambda h: eval(value)\n",
        );
        assert_eq!(open(&disk).block_size(), Ok(None));
        let script = load_again();
        let ask = |value: &str| {
            script.config("size", value.as_bytes()).unwrap();
            open(&disk).block_size()
        };
        assert_eq!(ask("(0, 0, 0)"), Ok(None));
        assert_eq!(ask("(512, 4096, 65536)"), Ok(Some(BlockSize { minimum: 512, preferred: 4096, maximum: 65536 })));
        assert_eq!(ask("(True, 4096, -1)"), Ok(Some(BlockSize { minimum: 1, preferred: 4096, maximum: u32::MAX })));
        for wrong in [
            "[512, 4096, 65536]",
            "(512, 4096)",
            "(3, 4096, 65536)",
            "(512, 4095, 65536)",
            "(512, 256, 65536)",
            "(512, 4096, 65537)",
            "(131072, 131072, 131072)",
            "(0, 4096, 65536)",
            "('a', 'b', 'c')",
            "1 / 0",
        ] {
            assert!(ask(wrong).is_err(), "{wrong}");
        }
    });
}

#[test]
fn names_descriptions_and_lists_of_exports() {
    alone("names_descriptions_and_lists_of_exports", || {
        let disk = disk(
            "import nbdkit\n\
             name = 'dd'\n\
             def open(readonly): return nbdkit.export_name()\n\
             def get_size(h): return 512\n\
             def pread(h, c, o): return h.encode().ljust(c)\n\
             def config(key, value): exec(value, globals())\n",
        );
        let script = load_again();
        let set = |code: &str| script.config("do", code.as_bytes()).unwrap();
        let names = || {
            disk.exports(&client()).map(|list| {
                list.into_iter()
                    .map(|export| {
                        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
                        (text(export.name), export.description.map(text))
                    })
                    .collect::<Vec<_>>()
            })
        };
        let plain = |name: &str| (name.to_owned(), None);
        assert_eq!(names(), Ok(vec![plain("")]));
        assert_eq!(disk.default_export(&client()), Some(Vec::new()));
        set("def default_export(r, t): return name");
        assert_eq!(names(), Ok(vec![plain("dd")]));
        assert_eq!(disk.default_export(&client()), Some(b"dd".to_vec()));
        set("name = None");
        assert_eq!(names(), Ok(vec![]));
        assert_eq!(disk.default_export(&client()), None);
        set("def list_exports(r, t): return ['a', ('b', b'c'), b'd']");
        assert_eq!(names(), Ok(vec![plain("a"), ("b".to_owned(), Some("c".to_owned())), plain("d")]));
        set("def list_exports(r, t): return 'xy'");
        assert_eq!(names(), Ok(vec![plain("x"), plain("y")]));
        for wrong in [
            "5",
            "[['a', 'b']]",
            "[('a',)]",
            "[None]",
            "[1]",
            "[('a', None)]",
            "['x' * 4097]",
            "['a'] * 10001",
            "1 / 0",
        ] {
            set(&format!("def list_exports(r, t): return {wrong}"));
            assert!(names().is_err(), "{wrong}");
        }
        for (description, text) in [
            ("'text'", Some("text")),
            ("b'raw'", Some("raw")),
            ("''", Some("")),
            ("None", None),
            ("5", None),
            ("'x' * 4097", None),
            ("1 / 0", None),
        ] {
            set(&format!("def export_description(h): return {description}"));
            assert_eq!(open(&disk).description(), text.map(|text| text.as_bytes().to_vec()), "{description}");
        }
        for name in ["", "テスト", "/", "%%", "new\nline", &"x".repeat(80)] {
            let open = disk.open(name.as_bytes(), &client()).unwrap();
            let bytes = open.read(0, 100).unwrap();
            assert_eq!(String::from_utf8_lossy((*bytes).as_ref()).trim_end_matches(' '), name);
        }
        assert!(matches!(disk.open(b"\xff", &client()), Err(OpenError::Refused(_))));
        for place in ["preconnect(r)", "list_exports(r, t)", "default_export(r, t)"] {
            set(&format!("def {place}: return nbdkit.export_name()"));
        }
        assert!(disk.preconnect(&client()).unwrap_err().contains("RuntimeError"));
        assert!(names().is_err());
        assert_eq!(disk.default_export(&client()), None);
    });
}

#[test]
fn zeroing_falls_back_only_when_the_script_says_so() {
    alone("zeroing_falls_back_only_when_the_script_says_so", || {
        let disk = disk(
            "import nbdkit, errno\n\
             def open(readonly): return 1\n\
             def get_size(h): return 1 << 20\n\
             def pread(h, c, o): return bytes(c)\n\
             def pwrite(h, b, o): pass\n\
             def zero(h, c, o, may_trim):\n  assert may_trim is True or may_trim is False\n  code[o](c)\n\
             def say(e): nbdkit.set_error(e)\n\
             def fail(e): raise OSError(e, 'failed')\n\
             code = [lambda c: None, lambda c: say(95), lambda c: (say(95), fail(5)), lambda c: fail(95), lambda c: (say(28), fail(5)), lambda c: say(28)]\n\
             def config(key, value): exec(value, globals())\n",
        );
        let handle = open(&disk);
        let results: Vec<_> = (0..6).map(|offset| handle.zero(offset, 1, PLAIN)).collect();
        let failed = |errno| Err(DiskError(errno));
        assert_eq!(results, [Ok(()), failed(95), failed(95), failed(libc::EIO), failed(libc::ENOSPC), Ok(())]);
        assert_eq!(handle.zero(0, 1, RequestFlags { may_trim: true, ..PLAIN }), Ok(()));
        load_again().config("do", b"del zero").unwrap();
        assert_eq!(handle.zero(0, 1, PLAIN), failed(95));
    });
}

#[test]
fn extents_as_the_rules_say() {
    alone("extents_as_the_rules_say", || {
        let disk = disk(
            "API_VERSION = 2\n\
             def open(readonly): return 1\n\
             def get_size(h): return 1000\n\
             def pread(h, b, o, f): pass\n\
             def config(key, value): globals()['extents'] = eval('lambda h, count, offset, flags: ' + value)\n\
             def some(items):\n  for item in items: yield item\n  raise ValueError('no more')\n\
             def can_extents(h): return True\n",
        );
        let handle = open(&disk);
        let all = Extent { offset: 10, length: 20, hole: false, zero: false };
        assert_eq!(handle.extents(10, 20, PLAIN), Ok(vec![all]));
        let script = load_again();
        let ask = |code: &str, one: bool| {
            script.config("extents", code.as_bytes()).unwrap();
            let list = handle.extents(10, 20, RequestFlags { one, ..PLAIN })?;
            Ok(list.into_iter().map(|e| (e.offset, e.length, e.hole, e.zero)).collect::<Vec<_>>())
        };
        assert_eq!(ask("[(0, 20, 3), (20, 30, 0)]", false), Ok(vec![(10, 10, true, true), (20, 30, false, false)]));
        assert_eq!(ask("[(0, 20, 3), (20, 30, 0)]", true), Ok(vec![(10, 10, true, true)]));
        assert_eq!(ask("[(offset, count, flags)]", true), Ok(vec![(10, 20, false, false)]));
        assert_eq!(ask("some([(0, 2000, 2)])", false), Ok(vec![(10, 990, false, true)]));
        assert_eq!(ask("[(0, 10, 0)]", false), Err(DiskError(libc::EINVAL)));
        for wrong in [
            "some([])",
            "[]",
            "5",
            "[[0, 20, 0]]",
            "[(0, 20)]",
            "[('a', 20, 0)]",
            "[(-1, 20, 0)]",
            "[(11, 20, 0)]",
            "[(0, 20, 0), (21, 5, 0)]",
            "1 / 0",
        ] {
            assert_eq!(ask(wrong, false), Err(DiskError(libc::EIO)), "{wrong}");
        }
    });
}

#[test]
fn promised_callbacks_that_are_missing_fail_the_request() {
    alone("promised_callbacks_that_are_missing_fail_the_request", || {
        let disk = disk(
            "def open(readonly): return 1\n\
             def get_size(h): return 1000\n\
             def pread(h, c, o): return bytes(c)\n\
             def can_write(h): return True\n\
             can_flush = can_trim = can_zero = can_extents = can_write\n\
             def can_cache(h): return 2\n",
        );
        let handle = open(&disk);
        let failed = Err(DiskError(libc::EIO));
        assert_eq!(handle.write(0, b"x", PLAIN), failed);
        assert_eq!(handle.flush(), failed);
        assert_eq!(handle.trim(0, 1, PLAIN), failed);
        assert_eq!(handle.cache(0, 1), failed);
        assert_eq!(handle.zero(0, 1, PLAIN), Err(DiskError(95)));
    });
}

#[test]
fn flags_reach_version_two_only() {
    alone("flags_reach_version_two_only", || {
        let disk = disk(
            "API_VERSION = 2\n\
             seen = []\n\
             def open(readonly): return 1\n\
             def get_size(h): return 1000\n\
             def pread(h, b, o, f): b[:] = repr(seen).encode().ljust(len(b))\n\
             def pwrite(h, b, o, f): seen.append(f)\n\
             def trim(h, c, o, f): seen.append(f)\n\
             def zero(h, c, o, f): seen.append(f)\n\
             def flush(h, f): seen.append(f)\n\
             def cache(h, c, o, f): seen.append(f)\n\
             def can_fua(h): return 2\n",
        );
        let handle = open(&disk);
        let all = RequestFlags { fua: true, may_trim: true, fast_zero: true, one: false };
        handle.write(0, b"x", all).unwrap();
        handle.trim(0, 1, all).unwrap();
        handle.zero(0, 1, all).unwrap();
        handle.flush().unwrap();
        handle.cache(0, 1).unwrap();
        assert_eq!((*handle.read(0, 17).unwrap()).as_ref(), b"[2, 2, 11, 0, 0] ");
    });
}

#[test]
fn a_thread_keeps_its_python_state_for_life() {
    alone("a_thread_keeps_its_python_state_for_life", || {
        let disk = disk(
            "API_VERSION = 2\n\
             import threading\n\
             local = threading.local()\n\
             def open(readonly): return 1\n\
             def get_size(h): return 1000\n\
             def pread(h, b, o, f):\n  local.count = getattr(local, 'count', 0) + 1\n  b[0] = local.count\n\
             def thread_model(): return 9\n",
        );
        assert_eq!(disk.threads(), ThreadModel::Parallel);
        let handle = open(&disk);
        let count = || (*handle.read(0, 1).unwrap()).as_ref()[0];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for expected in 1..=100 {
                        assert_eq!(count(), expected);
                    }
                });
            }
        });
    });
}

#[test]
fn the_module_checks_its_arguments() {
    let ended = alone("the_module_checks_its_arguments", || {
        start();
        let (_folder, path) = write(include_str!("module.py"));
        load(&path).unwrap();
    });
    if let Some(ended) = ended {
        assert!(ended.stdout.contains("the module is as it should be"), "{}{}", ended.stdout, ended.stderr);
    }
}

#[test]
fn scripts_that_are_none_are_refused() {
    alone("scripts_that_are_none_are_refused", || {
        start();
        let refused = |text: &str| {
            let (_folder, path) = write(text);
            load(&path).err()
        };
        assert!(
            load(Path::new("/nonexistent.py")).unwrap_err().contains("/nonexistent.py: cannot open file: No such file")
        );
        assert!(refused("this is no Python").unwrap().contains("error running this script"));
        assert!(refused("def get_size(h): pass\nopen = 5\ndef pread(h): pass").unwrap().contains("required callbacks"));
        let base = "def open(r): pass\ndef get_size(h): pass\ndef pread(h): pass\n";
        for (version, accepted) in [
            ("1", true),
            ("2", true),
            ("True", true),
            ("0", false),
            ("3", false),
            ("'2'", false),
            ("2.0", false),
            ("2 ** 70", false),
        ] {
            let reason = refused(&format!("{base}API_VERSION = {version}"));
            assert_eq!(reason.is_none(), accepted, "{version}: {reason:?}");
        }
    });
}
