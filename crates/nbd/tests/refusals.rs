//! What is refused and why, what is made up for, and what a disk is said to be able to (reference 5.4, 7).
#![allow(clippy::unwrap_used)]

mod common;

use backstay_core::{BlockSize, Client, DiskInfo, Extent, Support, ThreadModel};
use backstay_nbd::codec::error::NbdError;
use backstay_nbd::codec::option::{Info, InfoKind};
use backstay_nbd::codec::request::{Command, Flags, Request};
use backstay_nbd::guarded::{Guarded, Outcome};
use backstay_nbd::handshake::Agreement;
use common::Probe;

const BOTH: Agreement = Agreement { structured_replies: true, allocation: true };
const NEITHER: Agreement = Agreement { structured_replies: false, allocation: false };

const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;

fn able() -> DiskInfo {
    DiskInfo::able(1 << 20)
}

fn guard(probe: &Probe) -> Guarded {
    Guarded::new(probe.opened(&Client::default()), false, probe.model).unwrap()
}

fn with(info: DiskInfo) -> Probe {
    Probe { info, ..Probe::new(ThreadModel::Parallel) }
}

fn request(command: Command, flags: u16, offset: u64, count: u32) -> Request {
    Request { flags: Flags(flags), command, cookie: 7, offset, count }
}

fn verdict(info: &DiskInfo, agreed: Agreement, command: Command, flags: u16, offset: u64, count: u32) -> u32 {
    let guarded = guard(&with(info.clone()));
    guarded.check(&request(command, flags, offset, count), agreed).err().map_or(0, NbdError::code)
}

#[test]
fn every_refusal_has_its_number() {
    use Command::{BlockStatus, Cache, Flush, Other, Read, Trim, Write, WriteZeroes};
    let full = able();
    let read_only = DiskInfo { can_write: false, ..able() };
    let plain = DiskInfo { size: 1 << 20, can_write: true, ..DiskInfo::default() };
    let large = DiskInfo { size: 1 << 40, ..able() };
    let end = 1 << 20;
    let table: &[(&DiskInfo, Agreement, Command, u16, u64, u32, u32)] = &[
        // 1: read-only, also out of range and with wrong flags.
        (&read_only, BOTH, Write, 0, 0, 512, 1),
        (&read_only, BOTH, Trim, 0, 0, 512, 1),
        (&read_only, BOTH, WriteZeroes, 0, 0, 512, 1),
        (&read_only, BOTH, Write, 0xffff, u64::MAX, u32::MAX, 1),
        // 2: ranges.
        (&full, BOTH, Read, 0, 0, 0, 22),
        (&full, BOTH, Read, 0, end, 1, 22),
        (&full, BOTH, Read, 0, end - 1, 2, 22),
        (&full, BOTH, Read, 0, u64::MAX, 1, 22),
        (&full, BOTH, Read, 0, u64::MAX, u32::MAX, 22),
        (&full, BOTH, Read, 0, 1 << 63, 1, 22),
        (&full, BOTH, Cache, 0, end, 1, 22),
        (&full, BOTH, Cache, 0, 0, 0, 22),
        (&full, BOTH, Trim, 0, end, 1, 22),
        (&full, BOTH, Trim, 0, 0, 0, 22),
        (&full, BOTH, BlockStatus, 0, end, 1, 22),
        (&full, BOTH, BlockStatus, 0, 0, 0, 22),
        (&full, BOTH, Write, 0, end, 1, 28),
        (&full, BOTH, Write, 0, 0, 0, 28),
        (&full, BOTH, Write, 0, u64::MAX, 1, 28),
        (&full, BOTH, Write, 0xffe0, end, 1, 28),
        (&full, BOTH, WriteZeroes, 0, end - 1, 2, 28),
        (&full, BOTH, WriteZeroes, 0, 0, 0, 28),
        (&full, BOTH, Flush, 0, 1, 0, 22),
        (&full, BOTH, Flush, 0, 0, 1, 22),
        (&full, BOTH, Other(8), 0, 0, 512, 22),
        (&full, BOTH, Other(0xffff), 0, 0, 512, 22),
        // 3: unknown flags.
        (&full, BOTH, Read, 32, 0, 512, 22),
        (&full, BOTH, Write, 0x8000, 0, 512, 22),
        // 4: flags of other commands.
        (&full, BOTH, Read, NO_HOLE, 0, 512, 22),
        (&full, BOTH, Write, FAST_ZERO, 0, 512, 22),
        (&full, BOTH, Trim, NO_HOLE, 0, 512, 22),
        (&full, BOTH, Write, DF, 0, 512, 22),
        (&full, BOTH, BlockStatus, DF, 0, 512, 22),
        (&full, BOTH, Read, REQ_ONE, 0, 512, 22),
        (&full, BOTH, WriteZeroes, REQ_ONE, 0, 512, 22),
        // 5: one piece, without structured replies.
        (&full, NEITHER, Read, DF, 0, 512, 22),
        // 6: FUA that is not offered, on anything.
        (&plain, BOTH, Read, FUA, 0, 512, 22),
        (&plain, BOTH, Write, FUA, 0, 512, 22),
        (&plain, BOTH, WriteZeroes, FUA, 0, 512, 22),
        (&plain, BOTH, Flush, FUA, 0, 0, 22),
        (&read_only, BOTH, Read, FUA, 0, 512, 22),
        // 7: fast zeroing that is not offered.
        (&plain, BOTH, WriteZeroes, FAST_ZERO, 0, 512, 22),
        // 8: too large.
        (&large, BOTH, Read, 0, 0, (64 << 20) + 1, 12),
        (&large, BOTH, Write, 0, 0, (64 << 20) + 1, 12),
        (&large, BOTH, Read, 32, 0, (64 << 20) + 1, 22),
        // 9: not offered.
        (&plain, BOTH, Flush, 0, 0, 0, 22),
        (&plain, BOTH, Trim, 0, 0, 512, 22),
        (&plain, BOTH, Cache, 0, 0, 512, 22),
        // 10: block status that was not agreed on.
        (&full, NEITHER, BlockStatus, 0, 0, 512, 22),
        (&full, Agreement { structured_replies: true, allocation: false }, BlockStatus, 0, 0, 512, 22),
        (&full, Agreement { structured_replies: false, allocation: true }, BlockStatus, 0, 0, 512, 22),
        // What is allowed.
        (&full, BOTH, Read, FUA | DF, end - 1, 1, 0),
        (&full, BOTH, Write, FUA, 0, end as u32, 0),
        (&full, BOTH, Flush, FUA, 0, 0, 0),
        (&full, BOTH, Trim, FUA, 0, 512, 0),
        (&full, BOTH, WriteZeroes, FUA | NO_HOLE | FAST_ZERO, 0, 512, 0),
        (&full, BOTH, Cache, FUA, 0, 512, 0),
        (&full, BOTH, BlockStatus, FUA | REQ_ONE, 0, 512, 0),
        (&plain, NEITHER, WriteZeroes, NO_HOLE, 0, 512, 0),
        (&large, BOTH, Read, 0, 0, 64 << 20, 0),
        (&large, BOTH, Write, 0, 0, 64 << 20, 0),
        (&large, BOTH, Trim, 0, 0, u32::MAX, 0),
        (&large, BOTH, WriteZeroes, 0, 0, u32::MAX, 0),
        (&large, BOTH, Cache, 0, 0, u32::MAX, 0),
        (&large, BOTH, BlockStatus, 0, 0, u32::MAX, 0),
    ];
    for (info, agreed, command, flags, offset, count, error) in table {
        let said = verdict(info, *agreed, *command, *flags, *offset, *count);
        assert_eq!(said, *error, "{command:?} flags {flags:#x} at {offset} of {count}, {agreed:?}, {info:?}");
    }
}

#[test]
fn the_flags_say_what_the_disk_can() {
    let none = || DiskInfo { size: 512, ..DiskInfo::default() };
    let table = [
        (none(), 0x003),
        (DiskInfo { can_write: true, can_fast_zero: true, ..none() }, 0x841),
        (DiskInfo { can_write: true, can_flush: true, fua: Support::Emulate, can_fast_zero: true, ..none() }, 0x84d),
        (DiskInfo { can_write: true, can_zero: true, ..none() }, 0x041),
        (
            DiskInfo {
                can_write: true,
                can_flush: true,
                can_trim: true,
                can_zero: true,
                fua: Support::Emulate,
                cache: Support::Native,
                ..none()
            },
            0x46d,
        ),
        // A disk that is not written has no flags of writing, whatever it says.
        (DiskInfo { can_write: false, is_rotational: true, cache: Support::Emulate, ..able() }, 0x517),
        (DiskInfo { can_write: true, fua: Support::Native, can_fast_zero: true, ..none() }, 0x849),
        (able(), 0xd6d),
    ];
    for (info, flags) in table {
        let probe = with(info.clone());
        assert_eq!(guard(&probe).flags(false).0, flags, "{info:?}");
        assert_eq!(guard(&probe).flags(true).0, flags | 0x80, "{info:?}");
    }
}

#[test]
fn a_server_that_is_read_only_says_so_and_one_connection_at_a_time_is_no_multi_conn() {
    let probe = with(able());
    let guarded = Guarded::new(probe.opened(&Client::default()), true, ThreadModel::Parallel).unwrap();
    assert_eq!(guarded.flags(false).0, 0x507);
    let probe = Probe { info: able(), ..Probe::new(ThreadModel::SerializeConnections) };
    assert_eq!(guard(&probe).flags(false).0 & 0x100, 0);
}

#[test]
fn a_disk_beyond_signed_offsets_is_refused() {
    let largest = with(DiskInfo { size: i64::MAX as u64, ..able() });
    assert_eq!(guard(&largest).size(), i64::MAX as u64);
    let larger = with(DiskInfo { size: 1 << 63, ..able() });
    assert!(Guarded::new(larger.opened(&Client::default()), false, ThreadModel::Parallel).is_err());
}

fn calls(probe: &Probe, command: Command, flags: u16, offset: u64, count: u32) -> (Vec<String>, u32) {
    probe.calls.lock().unwrap().clear();
    let guarded = guard(probe);
    let asked = request(command, flags, offset, count);
    guarded.check(&asked, BOTH).unwrap();
    let result = guarded.run(&asked, &vec![1; if command == Command::Write { count as usize } else { 0 }]);
    (probe.calls(), result.err().map_or(0, NbdError::code))
}

/// A disk of a tebibyte whose calls fail as `fails` says: a part of the call, and the errno.
fn failing(info: &DiskInfo, fails: &'static [(&'static str, i32)]) -> Probe {
    let act = move |call: &str, _: &Client| {
        fails.iter().find(|(part, _)| call.starts_with(part)).map_or(Ok(()), |(_, errno)| Err(*errno))
    };
    Probe { info: DiskInfo { size: 1 << 40, ..info.clone() }, ..Probe::acting(ThreadModel::Parallel, act) }
}

#[test]
fn zeroes_are_written_where_the_disk_does_not_zero() {
    let emulating = || DiskInfo { can_zero: false, fua: Support::Emulate, ..able() };
    let mib = 1 << 20;
    let cases: Vec<(Probe, u16, u32, Vec<&str>, u32)> = vec![
        (failing(&able(), &[]), 0, 512, vec!["zero 8 512 may_trim"], 0),
        (failing(&able(), &[]), NO_HOLE, 512, vec!["zero 8 512"], 0),
        (failing(&able(), &[]), FUA | NO_HOLE | FAST_ZERO, 512, vec!["zero 8 512 fua fast"], 0),
        (
            failing(&DiskInfo { can_zero: false, ..able() }, &[]),
            FUA,
            150 * mib,
            vec![
                "write 8 67108864 zeroes fua",
                "write 67108872 67108864 zeroes fua",
                "write 134217736 23068672 zeroes fua",
            ],
            0,
        ),
        (
            failing(&able(), &[("zero", libc::EOPNOTSUPP)]),
            0,
            65 * mib,
            vec!["zero 8 68157440 may_trim", "write 8 67108864 zeroes", "write 67108872 1048576 zeroes"],
            0,
        ),
        (failing(&able(), &[("zero", libc::EOPNOTSUPP)]), FAST_ZERO, 512, vec!["zero 8 512 may_trim fast"], 95),
        (failing(&emulating(), &[]), FAST_ZERO, 512, vec![], 95),
        (failing(&able(), &[("zero", libc::ENOSPC)]), 0, 512, vec!["zero 8 512 may_trim"], 28),
        (failing(&emulating(), &[]), FUA, 512, vec!["write 8 512 zeroes", "flush"], 0),
        (
            failing(&DiskInfo { fua: Support::Emulate, ..able() }, &[]),
            FUA,
            512,
            vec!["zero 8 512 may_trim", "flush"],
            0,
        ),
        // Writing does not end in "not supported" either.
        (failing(&emulating(), &[("write", libc::EOPNOTSUPP)]), 0, 512, vec!["write 8 512 zeroes"], 22),
    ];
    for (probe, flags, count, expected, error) in cases {
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(calls(&probe, Command::WriteZeroes, flags, 8, count), (expected, error), "{flags:#x} {count}");
    }
}

#[test]
fn stable_storage_is_the_disks_own_or_a_flush_behind_the_call() {
    let emulating = DiskInfo { fua: Support::Emulate, can_flush: false, ..able() };
    let cases: Vec<(Probe, Command, Vec<&str>, u32)> = vec![
        (failing(&able(), &[]), Command::Write, vec!["write 0 512 fua"], 0),
        (failing(&able(), &[]), Command::Trim, vec!["trim 0 512 fua"], 0),
        (failing(&emulating, &[]), Command::Write, vec!["write 0 512", "flush"], 0),
        (failing(&emulating, &[]), Command::Trim, vec!["trim 0 512", "flush"], 0),
        (failing(&emulating, &[("flush", libc::EIO)]), Command::Write, vec!["write 0 512", "flush"], 5),
        (failing(&emulating, &[("write", libc::EROFS)]), Command::Write, vec!["write 0 512"], 1),
        (failing(&emulating, &[]), Command::Read, vec!["read 0 512"], 0),
    ];
    for (probe, command, expected, error) in cases {
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(calls(&probe, command, FUA, 0, 512), (expected, error), "{command:?}");
    }
}

#[test]
fn caching_is_the_disks_own_or_a_read() {
    let native = failing(&able(), &[]);
    assert_eq!(calls(&native, Command::Cache, 0, 8, 300 << 20), (vec!["cache 8 314572800".to_owned()], 0));
    let emulated = failing(&DiskInfo { cache: Support::Emulate, ..able() }, &[]);
    let pieces = vec!["read 8 67108864".to_owned(), "read 67108872 1048576".to_owned()];
    assert_eq!(calls(&emulated, Command::Cache, 0, 8, 65 << 20), (pieces, 0));
}

#[test]
fn errors_reach_the_client_by_the_table() {
    let table = [
        (libc::EPERM, 1),
        (libc::EROFS, 1),
        (libc::EIO, 5),
        (libc::ENOMEM, 12),
        (libc::ENOSPC, 28),
        (libc::EDQUOT, 28),
        (libc::EFBIG, 28),
        (libc::ESHUTDOWN, 108),
        (libc::EINVAL, 22),
        (libc::ENOENT, 22),
        (libc::EACCES, 22),
        (libc::EAGAIN, 22),
        (libc::ETIMEDOUT, 22),
        (0, 22),
        (-1, 22),
    ];
    for (errno, code) in table {
        for flags in [0, DF, FAST_ZERO] {
            assert_eq!(NbdError::from_errno(errno, Flags(flags)).code(), code, "errno {errno}");
        }
    }
    for (errno, flags, code) in [
        (libc::EOPNOTSUPP, 0, 22),
        (libc::EOPNOTSUPP, DF, 22),
        (libc::EOPNOTSUPP, FAST_ZERO, 95),
        (libc::EOVERFLOW, 0, 22),
        (libc::EOVERFLOW, FAST_ZERO, 22),
        (libc::EOVERFLOW, DF, 75),
    ] {
        assert_eq!(NbdError::from_errno(errno, Flags(flags)).code(), code, "errno {errno} flags {flags}");
    }
}

fn extent(offset: u64, length: u64, kind: u32) -> Extent {
    Extent { offset, length, hole: kind & 1 != 0, zero: kind & 2 != 0 }
}

fn status(extents: Vec<Extent>, flags: u16, offset: u64, count: u32) -> Result<Vec<(u32, u32)>, u32> {
    let info = DiskInfo { size: 10_000, ..able() };
    let probe = Probe { extents, ..with(info) };
    match guard(&probe).run(&request(Command::BlockStatus, flags, offset, count), &[]) {
        Ok(Outcome::Extents(extents)) => Ok(extents),
        Ok(_) => panic!("no extents"),
        Err(error) => Err(error.code()),
    }
}

#[test]
fn extents_are_settled_by_the_rules() {
    let e = extent;
    type Case = (Vec<Extent>, u16, Result<Vec<(u32, u32)>, u32>);
    // All asked from 1000 on, for 500 bytes, of a disk of 10,000.
    let table: Vec<Case> = vec![
        (vec![e(1000, 500, 0)], 0, Ok(vec![(500, 0)])),
        (vec![e(1000, 200, 3), e(1200, 300, 0)], 0, Ok(vec![(200, 3), (300, 0)])),
        // It stops as soon as the range is covered, and the last may reach beyond.
        (vec![e(1000, 200, 3), e(1200, 300, 0), e(1500, 10, 1)], 0, Ok(vec![(200, 3), (300, 0)])),
        (vec![e(1000, 200, 3), e(1200, 5000, 0), e(6200, 10, 1)], 0, Ok(vec![(200, 3), (5000, 0)])),
        (vec![e(0, 10_000, 2)], 0, Ok(vec![(9000, 2)])),
        // Gap, overlap, wrong order.
        (vec![e(1000, 100, 0), e(1101, 100, 1)], 0, Err(5)),
        (vec![e(1000, 100, 0), e(1099, 100, 1)], 0, Err(5)),
        (vec![e(1100, 100, 0), e(1000, 100, 1)], 0, Err(5)),
        // Nothing, before, beyond.
        (vec![e(1000, 0, 1), e(1000, 500, 0)], 0, Ok(vec![(500, 0)])),
        (vec![e(0, 400, 1), e(400, 600, 2), e(1000, 500, 0)], 0, Ok(vec![(500, 0)])),
        (vec![e(0, 1100, 1), e(1100, 400, 0)], 0, Ok(vec![(100, 1), (400, 0)])),
        (vec![e(1001, 499, 0)], 0, Err(5)),
        (vec![e(1000, u64::MAX, 0)], 0, Ok(vec![(9000, 0)])),
        (vec![e(1000, 9000, 0), e(10_000, 50, 1)], 0, Ok(vec![(9000, 0)])),
        (vec![], 0, Err(5)),
        (vec![e(1000, 0, 0)], 0, Err(22)),
        (vec![e(0, 1000, 0)], 0, Err(22)),
        (vec![e(10_000, 50, 0)], 0, Err(22)),
        // Neighbours of one kind are one.
        (vec![e(1000, 100, 2), e(1100, 100, 2), e(1200, 300, 0)], 0, Ok(vec![(200, 2), (300, 0)])),
        // Too little of the range is allowed.
        (vec![e(1000, 100, 2)], 0, Ok(vec![(100, 2)])),
        // One only: cut.
        (vec![e(1000, 100, 2), e(1100, 400, 0)], REQ_ONE, Ok(vec![(100, 2)])),
        (vec![e(0, 10_000, 1)], REQ_ONE, Ok(vec![(500, 1)])),
    ];
    for (extents, flags, expected) in table {
        assert_eq!(status(extents.clone(), flags, 1000, 500), expected, "{extents:?}");
    }
}

#[test]
fn a_disk_without_extents_is_all_data_and_is_not_asked() {
    let probe = with(DiskInfo { can_extents: false, ..able() });
    let outcome = guard(&probe).run(&request(Command::BlockStatus, 0, 8, 512), &[]);
    assert!(matches!(outcome, Ok(Outcome::Extents(extents)) if extents == [(512, 0)]));
    assert!(!probe.calls().iter().any(|call| call.starts_with("extents")));
}

#[test]
fn extents_beyond_the_words_of_the_protocol_are_cut() {
    let info = DiskInfo { size: 1 << 40, ..able() };
    let probe = Probe { extents: vec![extent(0, 1 << 40, 3)], ..with(info.clone()) };
    let outcome = guard(&probe).run(&request(Command::BlockStatus, 0, 0, 512), &[]);
    assert!(matches!(outcome, Ok(Outcome::Extents(extents)) if extents == [(u32::MAX, 3)]));
    let many = (0..(1 << 20) + 5).map(|at| extent(at, 1, (at % 2) as u32)).collect();
    let probe = Probe { extents: many, ..with(info) };
    let outcome = guard(&probe).run(&request(Command::BlockStatus, 0, 0, u32::MAX), &[]);
    assert!(matches!(outcome, Ok(Outcome::Extents(extents)) if extents.len() == 1 << 20));
}

#[test]
fn only_block_sizes_that_the_protocol_allows_are_told() {
    let told = |minimum, preferred, maximum| {
        let block_size = Ok(Some(BlockSize { minimum, preferred, maximum }));
        let probe = Probe { block_size, ..with(able()) };
        guard(&probe).infos(b"", &[InfoKind::BlockSize])
    };
    for (minimum, preferred, maximum) in
        [(512, 4096, 65536), (1, 512, u32::MAX), (65536, 1 << 25, u32::MAX), (512, 512, 512)]
    {
        assert_eq!(told(minimum, preferred, maximum), Ok(vec![Info::BlockSize(minimum, preferred, maximum)]));
    }
    assert_eq!(told(0, 0, 0), Ok(vec![]));
    for (minimum, preferred, maximum) in [
        (3, 4096, 65536),
        (512, 4095, 65536),
        (512, 256, 65536),
        (512, 4096, 65537),
        (131_072, 131_072, 131_072),
        (0, 4096, 65536),
        (512, 4096, 2048),
        (1, 1 << 26, u32::MAX),
        (u32::MAX, u32::MAX, u32::MAX),
    ] {
        assert!(told(minimum, preferred, maximum).is_err(), "{minimum} {preferred} {maximum}");
    }
    let raising = Probe { block_size: Err("no".to_owned()), ..with(able()) };
    assert!(guard(&raising).infos(b"", &[InfoKind::BlockSize]).is_err());
    assert_eq!(guard(&raising).infos(b"n", &[InfoKind::Name]), Ok(vec![Info::Name(b"n".to_vec())]));
}

#[test]
fn descriptions_that_may_not_be_sent_are_left_out() {
    for (text, told) in [(&b"words"[..], true), (b"", true), (&[b'x'; 4097], false), (b"a\0b", false)] {
        let probe = Probe { description: Some(text.to_vec()), ..with(able()) };
        let infos = guard(&probe).infos(b"", &[InfoKind::Description]).unwrap();
        assert_eq!(infos, if told { vec![Info::Description(text.to_vec())] } else { vec![] });
    }
}
