//! Any bytes give an answer or an end, never a panic and never a hang.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;

use backstay_core::{Client, DiskInfo, Extent, Support, ThreadModel};
use backstay_nbd::codec::option::{InfoRequest, MetaContextRequest, OptionHeader, OptionKind};
use backstay_nbd::codec::reply::decode_head;
use backstay_nbd::codec::request::{Command, Flags, Request};
use backstay_nbd::guarded::{Guarded, Outcome};
use backstay_nbd::handshake::{Agreement, Encryption, Handshake, Opened, Step, Style, Terms};
use backstay_nbd::server::Settings;
use common::{Probe, one_connection};
use proptest::prelude::*;

fn option() -> impl Strategy<Value = Vec<u8>> {
    (0_u32..13, prop::collection::vec(any::<u8>(), 0..40), prop::bool::weighted(0.9)).prop_map(|(code, data, right)| {
        let length = if right { data.len() } else { data.len() * 3 } as u32;
        [OptionHeader { kind: OptionKind::from_code(code), length }.encode(), data].concat()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let offset = prop_oneof![0_u64..5000, Just(u64::MAX), any::<u64>()];
    let count = prop_oneof![0_u32..5000, any::<u32>()];
    (0_u16..10, 0_u16..64, any::<u64>(), offset, count).prop_map(|(command, flags, cookie, offset, count)| Request {
        flags: Flags(flags),
        command: Command::from_code(command),
        cookie,
        offset,
        count,
    })
}

/// Drives a handshake to its end or to the end of the bytes.
fn converse(terms: Terms, bytes: &[u8], pieces: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut handshake, mut step) = Handshake::begin(terms, &mut out);
    let (mut kept, mut arrived) = (Vec::new(), bytes.chunks(pieces));
    let mut waits = false;
    loop {
        step = match step {
            Step::More => {
                if waits {
                    let Some(piece) = arrived.next() else { return out };
                    kept.extend_from_slice(piece);
                }
                let (consumed, step) = handshake.receive(&kept, &mut out);
                kept.drain(..consumed);
                waits = step == Step::More;
                step
            }
            Step::List => handshake.listed(Some(&[]), &mut out),
            Step::Open(_) => handshake.opened(Some(&Opened { size: 1, flags: 1, infos: vec![] }), &mut out),
            Step::Encrypt => handshake.encrypted(),
            Step::Start(_) | Step::Close => return out,
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_are_read_as_they_are_written(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn decoders_take_any_bytes(data in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode_head(&data);
        if let Some(request) = InfoRequest::decode(&data) {
            prop_assert_eq!(InfoRequest::decode(&request.encode()), Some(request));
        }
        if let Some(request) = MetaContextRequest::decode(&data) {
            prop_assert!(request.name.len() + 8 <= data.len());
        }
        if let Some(Ok(request)) = data.first_chunk().map(Request::decode) {
            prop_assert_eq!(&request.encode()[..], &data[..28]);
        }
    }

    #[test]
    fn a_handshake_says_the_same_however_bytes_arrive(
        options in prop::collection::vec(option(), 0..40),
        flags in 0_u32..4,
        pieces in 1_usize..50,
        old in any::<bool>(),
        encryption in prop_oneof![Just(Encryption::Off), Just(Encryption::Offered), Just(Encryption::Required)],
    ) {
        let style = if old { Style::Oldstyle } else { Style::Newstyle };
        let terms = Terms { style, encryption, ..Terms::default() };
        let bytes = [&flags.to_be_bytes()[..], &options.concat()].concat();
        prop_assert_eq!(converse(terms, &bytes, bytes.len()), converse(terms, &bytes, pieces));
    }

    /// Whatever a client asks and whatever the disk says of its extents.
    #[test]
    fn a_guarded_disk_answers_any_request(
        request in request(),
        can_write in any::<bool>(),
        can_zero in any::<bool>(),
        extents in prop::collection::vec((any::<u64>(), 0_u64..3000, 0_u8..4), 0..5),
    ) {
        let info = DiskInfo {
            size: 4096, can_write, can_zero, can_extents: true, cache: Support::Emulate, ..DiskInfo::default()
        };
        let extents = extents.into_iter().map(|(offset, length, kind)| {
            Extent { offset: offset % 5000, length, hole: kind & 1 != 0, zero: kind & 2 != 0 }
        });
        let probe = Probe { info, extents: extents.collect(), ..Probe::new(ThreadModel::Parallel) };
        let guarded = Guarded::new(probe.opened(&Client::default()), false, ThreadModel::Parallel).unwrap();
        let agreed = Agreement { structured_replies: true, allocation: true };
        if guarded.check(&request, agreed).is_ok() {
            let payload = vec![0; request.payload() as usize];
            if let Ok(Outcome::Extents(extents)) = guarded.run(&request, &payload) {
                prop_assert!(!extents.is_empty());
                prop_assert!(extents.iter().all(|(length, _)| *length > 0));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_server_outlives_whatever_is_sent(
        options in prop::collection::vec(option(), 0..6),
        requests in prop::collection::vec(request(), 0..20),
        rest in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let info = DiskInfo { size: 4096, can_write: true, can_flush: true, ..DiskInfo::default() };
        let probe = Probe { info, ..Probe::new(ThreadModel::Parallel) };
        let (mut peer, serving) = one_connection(Arc::new(probe.clone()), Settings::default());
        let go = OptionHeader { kind: OptionKind::Go, length: 6 }.encode();
        let head = [&3_u32.to_be_bytes()[..], &options.concat(), &go, &[0; 6]].concat();
        let requests: Vec<u8> = requests.iter().flat_map(Request::encode).collect();
        let bytes = [head, requests, rest].concat();
        // It may end in the middle; that is an answer too.
        let _ = peer.stream.write_all(&bytes);
        let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        let _ = peer.stream.read_to_end(&mut Vec::new());
        serving.join().unwrap();
        let calls = probe.calls();
        let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
        prop_assert_eq!(count("open"), count("close"));
    }
}
