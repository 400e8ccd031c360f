use super::*;

fn parse(line: &[&str]) -> Result<Options, String> {
    Options::parse(line.iter().map(OsString::from))
}

/// A value that an option of the table takes.
fn good_value(name: Name) -> &'static str {
    match name {
        Name::Debug => "nbdkit.backend.datapath=0",
        Name::Log => "null",
        Name::MaskHandshake => "0x1",
        Name::Threads => "3",
        Name::Tls => "off",
        Name::Timeout => "90s",
        _ => "1",
    }
}

#[test]
fn every_option_of_the_table_is_obeyed_or_refused_by_name() {
    let plain = parse(&["python", "x.py"]).unwrap();
    for spelling in TABLE {
        let shorts = spelling.short.iter().map(|letter| format!("-{letter}"));
        for shown in shorts.chain(spelling.long.iter().map(|long| format!("--{long}"))) {
            let mut line = vec!["python", "x.py", shown.as_str()];
            if spelling.argument {
                line.push(good_value(spelling.name));
            }
            // The words themselves are kept for others, and are no sign of obedience.
            match parse(&line).map(|options| Options { words: Vec::new(), ..options }) {
                // The default, spelled out.
                Ok(options) if spelling.name == Name::Newstyle => assert_eq!(options, plain),
                Ok(options) => assert_ne!(options, plain, "{shown} was read and dropped"),
                Err(reason) => assert!(
                    spelling.long.iter().any(|long| reason.contains(long)),
                    "{shown} was refused without its name: {reason}"
                ),
            }
        }
    }
}

#[test]
fn options_come_before_between_and_after_parameters() {
    let options = parse(&["-f", "python", "s.py", "a=b", "-U", "-", "c=d", "--run", "CMD"]).unwrap();
    assert!(options.foreground);
    assert_eq!(options.unix, Some(UnixSocket::Private));
    assert_eq!(options.run, Some("CMD".into()));
    assert_eq!(options.plugin, Some("python".into()));
    assert_eq!(options.arguments, ["s.py", "a=b", "c=d"]);
}

#[test]
fn two_dashes_end_the_options() {
    let options = parse(&["python", "--", "-f", "a=b"]).unwrap();
    assert!(!options.foreground);
    assert_eq!(options.arguments, ["-f", "a=b"]);
}

#[test]
fn short_options_bundle_and_hold_their_argument() {
    let options = parse(&["-fvrU/tmp/s", "python"]).unwrap();
    assert!(options.foreground && options.verbose && options.read_only);
    assert_eq!(options.unix, Some(UnixSocket::Path("/tmp/s".into())));
    assert_eq!(parse(&["-U"]).unwrap_err(), "option requires an argument -- 'U'");
    assert_eq!(parse(&["-fx"]).unwrap_err(), "invalid option -- 'x'");
}

#[test]
fn long_options_abbreviate_as_long_as_they_are_unambiguous() {
    assert!(parse(&["--fore"]).unwrap().foreground);
    assert_eq!(parse(&["--expo", "x"]).unwrap().export_name, b"x");
    assert_eq!(parse(&["--export=y"]).unwrap().export_name, b"y");
    let reason = parse(&["--ver"]).unwrap_err();
    assert!(reason.contains("'--verbose' '--version'"), "{reason}");
    assert_eq!(parse(&["--nonsense"]).unwrap_err(), "unrecognized option '--nonsense'");
    assert_eq!(parse(&["--no-sr=1"]).unwrap_err(), "option '--no-sr' doesn't allow an argument");
    assert_eq!(parse(&["--port"]).unwrap_err(), "option '--port' requires an argument");
}

#[test]
fn what_contradicts_itself_is_refused() {
    for line in [
        &["-p", "1", "-U", "x"][..],
        &["-p", "1", "-s"],
        &["-U", "x", "-s"],
        &["-s", "--run", "x"],
        &["-s", "--dump-plugin"],
        &["--vsock", "-U", "x"],
        &["--vsock", "-s"],
        &["-o", "--tls=require"],
        &["-s", "--print-uri"],
    ] {
        assert!(parse(line).is_err(), "{line:?}");
    }
    assert!(parse(&["--vsock", "-p", "1", "python"]).is_ok());
    assert!(parse(&["-U", "-", "--run", "x", "python"]).is_ok());
}

#[test]
fn wrong_values_are_refused_with_the_name_of_their_option() {
    for (line, part) in [
        (&["-t", "x"][..], "threads"),
        (&["-t", "-1"], "threads"),
        (&["--log", "file"], "--log"),
        (&["--mask-handshake", "z"], "mask-handshake"),
        (&["-D", "foo"], "-D"),
        (&["-D", "foo=1"], "-D"),
        (&["--tls", "maybe"], "--tls"),
        (&["--timeout", "soon"], "timeout"),
        (&["-s", "--selinux-label", "x"], "--selinux-label"),
    ] {
        let reason = parse(line).unwrap_err();
        assert!(reason.contains(part), "{line:?}: {reason}");
    }
}

#[test]
fn the_words_of_the_options_are_kept_for_another_program() {
    let options = parse(&["-v", "S3", "a=b", "-fU", "-", "--filter", "cow", "-t4", "--", "-x"]).unwrap();
    assert_eq!(options.words, ["-v", "-fU", "-", "--filter", "cow", "-t4"]);
    assert_eq!(options.arguments, ["a=b", "-x"]);
}

#[test]
fn filters_keep_their_order() {
    assert_eq!(parse(&["--filter=log", "python", "--filter", "cow"]).unwrap().filters, ["log", "cow"]);
}

#[test]
fn what_implies_the_foreground() {
    assert!(parse(&["-s", "python"]).unwrap().foreground);
    assert!(parse(&["--exit-with-parent", "python"]).unwrap().foreground);
    let run = parse(&["--run", "x", "python"]).unwrap();
    assert!(run.foreground);
    assert_eq!(run.unix, Some(UnixSocket::Private));
    assert!(!parse(&["python"]).unwrap().foreground);
}

#[test]
fn the_time_for_a_handshake_is_a_delay() {
    for (text, limit) in [("0", None), ("90", Some(90_000)), ("1500ms", Some(1500)), ("0.5s", Some(500))] {
        assert_eq!(parse(&["--timeout", text]).unwrap().timeout, limit.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn zero_threads_are_the_default() {
    assert_eq!(parse(&["-t", "0"]).unwrap().threads, DEFAULT_THREADS);
    assert_eq!(parse(&["-t1"]).unwrap().threads, 1);
}

#[test]
fn unknown_debug_flags_are_kept_for_a_warning() {
    let options = parse(&["-D", "python.x=1", "-D", "nbdkit.backend.controlpath=0"]).unwrap();
    assert_eq!(options.debug.unknown, ["python.x"]);
    assert!(!options.debug.control_path && options.debug.data_path);
}

#[test]
fn the_lists_have_every_spelling() {
    assert!(long_options().contains("--no-fork\n"));
    assert!(short_options().contains("-U\n"));
}
