//! Every option, every refusal, and that the stream stays in step after each (reference 10.1 to 10.3, 10.8).
#![allow(clippy::unwrap_used)]

use backstay_core::Export;
use backstay_nbd::codec::option::{
    Info, InfoKind, InfoRequest, MetaContextRequest, OptionHeader, OptionKind, ReplyKind,
};
use backstay_nbd::handshake::{Agreement, Encryption, Handshake, Opened, Step, Style, Terms};

/// A client and a server without anything between them.
struct Talk {
    handshake: Handshake,
    input: Vec<u8>,
    out: Vec<u8>,
    step: Step,
}

impl Talk {
    fn begin(terms: Terms) -> Self {
        let mut out = Vec::new();
        let (handshake, step) = Handshake::begin(terms, &mut out);
        Self { handshake, input: Vec::new(), out, step }
    }

    fn with(terms: Terms, flags: u32) -> Self {
        let mut talk = Self::begin(terms);
        talk.out.clear();
        talk.send(&flags.to_be_bytes());
        talk
    }

    /// A client that knows everything.
    fn new() -> Self {
        Self::with(Terms::default(), 3)
    }

    /// Sends byte by byte: what arrives in pieces is the same.
    fn send(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.step, Step::More, "nobody listens");
            self.input.push(*byte);
            let (consumed, step) = self.handshake.receive(&self.input, &mut self.out);
            self.input.drain(..consumed);
            self.step = step;
        }
    }

    fn option(&mut self, kind: OptionKind, data: &[u8]) {
        self.send(&OptionHeader { kind, length: data.len() as u32 }.encode());
        if self.step == Step::More {
            self.send(data);
        }
    }

    fn replies(&mut self) -> Vec<(OptionKind, ReplyKind, Vec<u8>)> {
        let out = std::mem::take(&mut self.out);
        let mut rest = &out[..];
        let mut replies = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
            let word = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
            let length = word(16) as usize;
            let kind = ReplyKind::from_code(word(12)).unwrap();
            replies.push((OptionKind::from_code(word(8)), kind, rest[20..20 + length].to_vec()));
            rest = &rest[20 + length..];
        }
        replies
    }

    /// Asks and takes the only reply.
    fn ask(&mut self, kind: OptionKind, data: &[u8]) -> ReplyKind {
        self.option(kind, data);
        let replies = self.replies();
        assert_eq!(replies.len(), 1, "{kind:?}");
        assert_eq!(replies[0].0, kind);
        replies[0].1
    }

    /// That it still understands: an unknown option.
    fn is_in_step(&mut self) -> bool {
        self.ask(OptionKind::Other(77), b"data") == ReplyKind::ErrUnsupported
    }

    fn opened(&mut self, export: Option<&Opened>) {
        self.step = self.handshake.opened(export, &mut self.out);
    }

    fn listed(&mut self, exports: Option<&[Export]>) {
        self.step = self.handshake.listed(exports, &mut self.out);
    }
}

fn export() -> Opened {
    Opened { size: 0x0102_0304, flags: 0x8d, infos: vec![] }
}

fn info(name: &[u8], wanted: &[InfoKind]) -> Vec<u8> {
    InfoRequest { name: name.to_vec(), wanted: wanted.to_vec() }.encode()
}

#[test]
fn the_greeting_offers_what_the_mask_leaves() {
    for (mask, flags) in [(u16::MAX, 3), (0, 0), (1, 1), (2, 2), (0xfffc, 0)] {
        let talk = Talk::begin(Terms { mask, ..Terms::default() });
        assert_eq!(talk.step, Step::More);
        assert_eq!(talk.out, [&b"NBDMAGICIHAVEOPT"[..], &[0, flags]].concat());
    }
}

#[test]
fn a_client_flag_that_was_not_offered_ends_it() {
    for (mask, flags, closed) in [(3, 4, true), (3, 0x8000_0000, true), (1, 2, true), (0, 1, true), (2, 2, false)] {
        let talk = Talk::with(Terms { mask, ..Terms::default() }, flags);
        assert_eq!(talk.step == Step::Close, closed, "mask {mask} flags {flags}");
    }
}

#[test]
fn the_old_style_has_a_greeting_and_nothing_else() {
    let mut talk = Talk::begin(Terms { style: Style::Oldstyle, ..Terms::default() });
    assert!(talk.out.is_empty());
    assert!(matches!(&talk.step, Step::Open(request) if request.name.is_empty() && !request.only_info));
    talk.opened(Some(&export()));
    assert_eq!(talk.step, Step::Start(Agreement::default()));
    assert_eq!(talk.out.len(), 152);
    let head = [&b"NBDMAGIC"[..], &0x0000_4202_8186_1253_u64.to_be_bytes(), &0x0102_0304_u64.to_be_bytes()].concat();
    assert_eq!(talk.out[..24], head);
    assert_eq!(talk.out[24..28], [0, 0, 0, 0x8d]);
    assert!(talk.out[28..].iter().all(|byte| *byte == 0));
    let mut talk = Talk::begin(Terms { style: Style::Oldstyle, ..Terms::default() });
    talk.opened(None);
    assert_eq!((talk.step, talk.out.len()), (Step::Close, 0));
}

#[test]
fn export_name_has_no_reply_but_size_and_flags() {
    for (flags, length) in [(3, 10), (1, 134), (0, 134), (2, 10)] {
        let mut talk = Talk::with(Terms::default(), flags);
        talk.option(OptionKind::ExportName, b"disk");
        assert!(matches!(&talk.step, Step::Open(request) if request.name == b"disk" && request.wanted.is_empty()));
        talk.opened(Some(&export()));
        assert!(matches!(talk.step, Step::Start(_)));
        assert_eq!(talk.out.len(), length);
        assert_eq!(talk.out[..10], [0, 0, 0, 0, 1, 2, 3, 4, 0, 0x8d]);
    }
}

#[test]
fn export_name_that_fails_ends_it() {
    for name in [&b"a\0b"[..], &[b'x'; 4097]] {
        let mut talk = Talk::new();
        talk.option(OptionKind::ExportName, name);
        assert_eq!((talk.step, talk.out.len()), (Step::Close, 0));
    }
    let mut talk = Talk::new();
    talk.option(OptionKind::ExportName, b"");
    talk.opened(None);
    assert_eq!((talk.step, talk.out.len()), (Step::Close, 0));
}

#[test]
fn abort_is_acknowledged_and_ends_it() {
    for data in [&b""[..], b"data"] {
        let mut talk = Talk::new();
        assert_eq!(talk.ask(OptionKind::Abort, data), ReplyKind::Ack);
        assert_eq!(talk.step, Step::Close);
    }
}

#[test]
fn a_list_is_given_once() {
    let mut talk = Talk::new();
    assert_eq!(talk.ask(OptionKind::List, b"x"), ReplyKind::ErrInvalid);
    talk.option(OptionKind::List, b"");
    assert_eq!(talk.step, Step::List);
    let exports = [
        Export { name: b"a".to_vec(), description: None },
        Export { name: b"bc".to_vec(), description: Some(b"words".to_vec()) },
    ];
    talk.listed(Some(&exports));
    let list = OptionKind::List;
    let expected = [
        (list, ReplyKind::Server, b"\0\0\0\x01a".to_vec()),
        (list, ReplyKind::Server, b"\0\0\0\x02bcwords".to_vec()),
        (list, ReplyKind::Ack, vec![]),
    ];
    assert_eq!(talk.replies(), expected);
    assert_eq!(talk.ask(OptionKind::List, b""), ReplyKind::ErrInvalid);
    assert!(talk.is_in_step());
}

#[test]
fn a_list_that_is_not_to_be_had_is_the_platforms_fault() {
    let named = |name: Vec<u8>| vec![Export { name, description: None }];
    let many = vec![Export::default(); 10_001];
    for exports in [None, Some(named(vec![b'x'; 4097])), Some(named(b"a\0".to_vec())), Some(many)] {
        let mut talk = Talk::new();
        talk.option(OptionKind::List, b"");
        talk.listed(exports.as_deref());
        assert_eq!(talk.replies(), [(OptionKind::List, ReplyKind::ErrPlatform, vec![])]);
        assert!(talk.is_in_step());
    }
    let mut talk = Talk::new();
    talk.option(OptionKind::List, b"");
    talk.listed(Some(&vec![Export::default(); 10_000]));
    assert_eq!(talk.replies().len(), 10_001);
}

#[test]
fn unknown_options_are_unsupported() {
    for code in [0, 4, 11, 12, 99, u32::MAX] {
        for data in [&b""[..], b"x", &[0; 5000]] {
            let mut talk = Talk::new();
            assert_eq!(talk.ask(OptionKind::from_code(code), data), ReplyKind::ErrUnsupported);
            assert!(talk.is_in_step());
        }
    }
}

#[test]
fn info_tells_and_goes_back_to_options_go_goes_on() {
    use InfoKind::{BlockSize, Description, Name};
    let mut talk = Talk::new();
    talk.option(OptionKind::Info, &info(b"disk", &[BlockSize, Name, Description, Name]));
    let Step::Open(request) = &talk.step else { panic!("{:?}", talk.step) };
    // Each once, in the client's order.
    assert_eq!(
        (&request.name[..], &request.wanted[..], request.only_info),
        (&b"disk"[..], &[BlockSize, Name, Description][..], true)
    );
    let infos = vec![Info::BlockSize(1, 4096, 65536), Info::Name(b"disk".to_vec()), Info::Description(b"".to_vec())];
    talk.opened(Some(&Opened { infos, ..export() }));
    let said: Vec<_> = talk.replies().into_iter().map(|(_, kind, data)| (kind, data)).collect();
    let expected = vec![
        (ReplyKind::Info, vec![0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0x8d]),
        (ReplyKind::Info, vec![0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 0, 1, 0, 0]),
        (ReplyKind::Info, b"\0\x01disk".to_vec()),
        (ReplyKind::Info, vec![0, 2]),
        (ReplyKind::Ack, vec![]),
    ];
    assert_eq!(said, expected);
    assert_eq!(talk.step, Step::More);
    talk.option(OptionKind::Go, &info(b"", &[]));
    assert!(matches!(&talk.step, Step::Open(request) if !request.only_info));
    talk.opened(None);
    assert_eq!(talk.replies(), [(OptionKind::Go, ReplyKind::ErrUnknown, vec![])]);
    talk.option(OptionKind::Go, &info(b"", &[]));
    talk.opened(Some(&export()));
    assert_eq!(talk.replies().len(), 2);
    assert_eq!(talk.step, Step::Start(Agreement::default()));
}

#[test]
fn info_and_go_with_wrong_data_are_invalid() {
    let name = |name: &[u8]| info(name, &[]);
    let good = info(b"disk", &[InfoKind::Name]);
    let table = [
        vec![],
        vec![0; 5],
        vec![0, 0, 0, 9, b'x', 0, 0],
        vec![0xff; 6],
        good[..good.len() - 1].to_vec(),
        [&good[..], b"x"].concat(),
        name(&[b'x'; 4097]),
        name(b"a\0b"),
        vec![0; 140_000],
    ];
    for kind in [OptionKind::Info, OptionKind::Go] {
        for data in &table {
            let mut talk = Talk::new();
            assert_eq!(talk.ask(kind, data), ReplyKind::ErrInvalid, "{kind:?} of {} bytes", data.len());
            assert!(talk.is_in_step());
        }
        let mut talk = Talk::new();
        talk.option(kind, &name(&[b'x'; 4096]));
        assert!(matches!(talk.step, Step::Open(_)));
        // Unknown questions are ignored.
        let mut talk = Talk::new();
        talk.option(kind, &[&[0; 4][..], &[0, 3, 0, 0, 0xff, 0xff, 0, 2]].concat());
        assert!(matches!(&talk.step, Step::Open(request) if request.wanted == [InfoKind::Description]));
    }
}

#[test]
fn structured_replies_are_agreed_on_once_or_not_offered() {
    let mut talk = Talk::new();
    assert_eq!(talk.ask(OptionKind::StructuredReply, b"x"), ReplyKind::ErrInvalid);
    assert!(!talk.handshake.structured_replies());
    assert_eq!(talk.ask(OptionKind::StructuredReply, b""), ReplyKind::Ack);
    assert!(talk.handshake.structured_replies());
    assert_eq!(talk.ask(OptionKind::StructuredReply, b""), ReplyKind::ErrInvalid);
    assert!(talk.handshake.structured_replies());
    let mut talk = Talk::with(Terms { structured_replies: false, ..Terms::default() }, 3);
    assert_eq!(talk.ask(OptionKind::StructuredReply, b""), ReplyKind::ErrUnsupported);
    assert!(talk.is_in_step());
}

fn start(talk: &mut Talk, name: &[u8]) -> Agreement {
    talk.option(OptionKind::Go, &info(name, &[]));
    talk.opened(Some(&export()));
    match talk.step {
        Step::Start(agreed) => agreed,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn meta_contexts_are_listed_by_query_and_set_by_name() {
    let (list, set) = (OptionKind::ListMetaContext, OptionKind::SetMetaContext);
    let queries: &[(&[&[u8]], bool, bool)] = &[
        (&[], true, false),
        (&[b"base:"], true, false),
        (&[b"base:allocation"], true, true),
        (&[b"qemu:dirty-bitmap:x", b"base:allocation", b""], true, true),
        (&[b"qemu:", b"base:allocationx", b"base"], false, false),
    ];
    for (queries, listed, selected) in queries {
        let data = MetaContextRequest::encode(b"disk", queries);
        let mut talk = Talk::new();
        let context = |id: u8| [&[0, 0, 0, id][..], b"base:allocation"].concat();
        talk.option(list, &data);
        let mut expected = vec![(list, ReplyKind::MetaContext, context(0)), (list, ReplyKind::Ack, vec![])];
        assert_eq!(talk.replies(), expected.split_off(usize::from(!listed)));
        assert_eq!(talk.ask(set, &data), ReplyKind::ErrInvalid);
        talk.ask(OptionKind::StructuredReply, b"");
        // With bytes behind the last query, which do not matter.
        talk.option(set, &[&data[..], b"more"].concat());
        let mut expected = vec![(set, ReplyKind::MetaContext, context(1)), (set, ReplyKind::Ack, vec![])];
        assert_eq!(talk.replies(), expected.split_off(usize::from(!selected)));
        assert_eq!(start(&mut talk, b"disk"), Agreement { structured_replies: true, allocation: *selected });
    }
}

#[test]
fn a_selection_counts_for_its_export_only_and_a_failed_one_leaves_none() {
    let set = OptionKind::SetMetaContext;
    let good = MetaContextRequest::encode(b"disk", &[b"base:allocation"]);
    let selected = || {
        let mut talk = Talk::new();
        talk.ask(OptionKind::StructuredReply, b"");
        talk.option(set, &good);
        assert_eq!(talk.replies().len(), 2);
        talk
    };
    assert!(!start(&mut selected(), b"").allocation);
    assert!(!start(&mut selected(), b"other").allocation);
    assert!(start(&mut selected(), b"disk").allocation);
    // An INFO for another name in between does not matter.
    let mut talk = selected();
    talk.option(OptionKind::Info, &info(b"other", &[]));
    talk.opened(Some(&export()));
    talk.replies();
    assert!(start(&mut talk, b"disk").allocation);
    let replaced = MetaContextRequest::encode(b"disk", &[b"x:y"]);
    for (data, reply) in [
        (replaced, ReplyKind::Ack),
        (vec![0; 7], ReplyKind::ErrInvalid),
        (vec![0xff; 8], ReplyKind::ErrInvalid),
        (good[..good.len() - 1].to_vec(), ReplyKind::ErrInvalid),
        (MetaContextRequest::encode(&[b'x'; 4097], &[]), ReplyKind::ErrInvalid),
        (MetaContextRequest::encode(b"a\0", &[]), ReplyKind::ErrInvalid),
        (MetaContextRequest::encode(b"", &[&[b'q'; 4097]]), ReplyKind::ErrInvalid),
        (MetaContextRequest::encode(b"", &[b"q\0"]), ReplyKind::ErrInvalid),
        (vec![0; (1 << 20) + 1], ReplyKind::ErrTooBig),
    ] {
        let mut talk = selected();
        assert_eq!(talk.ask(set, &data), reply);
        assert!(talk.is_in_step());
        assert!(!start(&mut talk, b"disk").allocation, "{} bytes", data.len());
    }
    let mut talk = Talk::with(Terms { meta_contexts: false, ..Terms::default() }, 3);
    talk.ask(OptionKind::StructuredReply, b"");
    for kind in [set, OptionKind::ListMetaContext] {
        assert_eq!(talk.ask(kind, &good), ReplyKind::ErrUnsupported);
    }
}

#[test]
fn a_client_of_the_plain_new_style_has_one_option() {
    for kind in [OptionKind::Abort, OptionKind::List, OptionKind::Go, OptionKind::Other(50), OptionKind::StartTls] {
        let mut talk = Talk::with(Terms::default(), 2);
        assert_eq!(talk.ask(kind, b"some data"), ReplyKind::ErrInvalid);
        talk.option(OptionKind::ExportName, b"");
        assert!(matches!(talk.step, Step::Open(_)));
    }
}

#[test]
fn options_have_a_number_that_lists_raise() {
    let mut talk = Talk::new();
    for _ in 0..31 {
        assert!(talk.is_in_step());
        assert_eq!(talk.step, Step::More);
    }
    assert!(talk.is_in_step());
    assert_eq!(talk.step, Step::Close);
    let mut talk = Talk::new();
    talk.option(OptionKind::List, b"");
    talk.listed(Some(&[Export::default(), Export::default()]));
    talk.replies();
    for _ in 0..94 {
        assert!(talk.is_in_step());
        assert_eq!(talk.step, Step::More);
    }
    assert!(talk.is_in_step());
    assert_eq!(talk.step, Step::Close);
}

#[test]
fn what_is_no_option_ends_it() {
    let mut talk = Talk::new();
    talk.send(b"IHAVEOPX\0\0\0\x02\0\0\0\0");
    assert_eq!((talk.step, talk.out.len()), (Step::Close, 0));
    for (length, closed) in [(64 << 20, false), ((64 << 20) + 1, true), (u32::MAX, true)] {
        let mut talk = Talk::new();
        talk.send(&OptionHeader { kind: OptionKind::Other(99), length }.encode());
        assert_eq!(talk.step == Step::Close, closed, "{length}");
    }
}

#[test]
fn data_of_a_refused_option_is_not_kept() {
    let mut talk = Talk::new();
    let length = 64 << 20;
    talk.send(&OptionHeader { kind: OptionKind::Other(99), length }.encode());
    let piece = vec![0; 1 << 20];
    for _ in 0..64 {
        assert!(talk.out.is_empty());
        let (consumed, step) = talk.handshake.receive(&piece, &mut talk.out);
        assert_eq!((consumed, step), (piece.len(), Step::More));
    }
    assert_eq!(talk.replies().len(), 1);
}

#[test]
fn encryption_is_refused_offered_or_required() {
    let table = [
        (Encryption::Off, ReplyKind::ErrPolicy, ReplyKind::Ack),
        (Encryption::Offered, ReplyKind::Ack, ReplyKind::Ack),
        (Encryption::Required, ReplyKind::Ack, ReplyKind::ErrTlsRequired),
    ];
    for (encryption, asked, other) in table {
        let terms = Terms { encryption, ..Terms::default() };
        let mut talk = Talk::with(terms, 3);
        assert_eq!(talk.ask(OptionKind::StructuredReply, b""), other);
        assert_eq!(talk.ask(OptionKind::StartTls, b"x"), ReplyKind::ErrInvalid);
        assert_eq!(talk.ask(OptionKind::StartTls, b""), asked);
        if asked == ReplyKind::Ack {
            assert_eq!(talk.step, Step::Encrypt);
            talk.step = talk.handshake.encrypted();
            // All is forgotten, and it happens once.
            assert!(!talk.handshake.structured_replies());
            assert_eq!(talk.ask(OptionKind::StartTls, b""), ReplyKind::ErrInvalid);
            assert_eq!(talk.ask(OptionKind::StructuredReply, b""), ReplyKind::Ack);
        }
    }
    let terms = Terms { encryption: Encryption::Required, ..Terms::default() };
    for (kind, data) in [(OptionKind::Go, &b"anything"[..]), (OptionKind::List, b""), (OptionKind::Other(99), b"x")] {
        let mut talk = Talk::with(terms, 3);
        assert_eq!(talk.ask(kind, data), ReplyKind::ErrTlsRequired);
        assert_eq!(talk.step, Step::More);
        assert_eq!(talk.ask(OptionKind::Abort, b""), ReplyKind::Ack);
    }
    let mut talk = Talk::with(terms, 3);
    talk.option(OptionKind::ExportName, b"disk");
    assert_eq!((talk.step, talk.out.len()), (Step::Close, 0));
}

#[test]
fn an_answer_that_was_not_asked_for_ends_it() {
    assert_eq!(Talk::new().handshake.opened(None, &mut vec![]), Step::Close);
    assert_eq!(Talk::new().handshake.listed(None, &mut vec![]), Step::Close);
    assert_eq!(Talk::new().handshake.encrypted(), Step::Close);
}
