//! The parser against texts, with a system that exists in the test only.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::model::{DEFAULT_FLAGS, PatternKind};

#[derive(Default)]
struct Pretended {
    files: HashMap<&'static str, Vec<u8>>,
    asked: Vec<String>,
}

impl Surroundings for Pretended {
    fn read(&mut self, file: &Path) -> io::Result<Vec<u8>> {
        self.asked.push(file.display().to_string());
        let found = file.to_str().and_then(|name| self.files.get(name));
        found.cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn run(&mut self, command: &str) -> io::Result<Vec<u8>> {
        self.asked.push(format!("|{command}"));
        match command {
            "fail" => Err(io::Error::other("exit status 1")),
            _ => Ok(command.replace(' ', "\n").into_bytes()),
        }
    }
}

fn with(files: &[(&'static str, &[u8])]) -> Pretended {
    Pretended { files: files.iter().map(|(name, text)| (*name, text.to_vec())).collect(), asked: Vec::new() }
}

fn read(text: &[u8]) -> Result<Vec<FileSet>, ParseError> {
    parse(Path::new("/etc/set.conf"), &mut with(&[("/etc/set.conf", text)]))
}

fn one(text: &str) -> FileSet {
    read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

/// An Options block with these directives.
fn options(text: &str) -> Result<(Options, Vec<String>), ParseError> {
    let whole = format!("FileSet {{ Name = x\nInclude {{ Options {{\n{text}\n}} File = /a }} }}");
    let mut set = read(whole.as_bytes())?.remove(0);
    Ok((set.includes[0].options.remove(0), set.notes))
}

fn error(text: &str) -> String {
    read(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_whole_file_set_is_read() {
    let set = one(r#"
        # The usual one.
        FileSet {
          Name = "Linux All"
          Description = "Everything; and more"   # a comment
          Ignore FileSet Changes = yes; EnableVSS=no
          Include {
            Options {
              Signature = XXH128; OneFS = no
              Compression = LZ4
              wild dir = "/proc"; WILDFILE = *.o
              RegexFile = "^.*\\.(iso|img)$"
            }
            options
            { Exclude = yes }
            File = /
            File = "/home/a b"; File = /srv
            Plugin = "python3"
                     ":module_path=/usr/lib/bareos/plugins"  # joined
                     ":module_name=m:uri=ldap\\:" "//host"
            Exclude Dir Containing = .nobackup
          }
          Exclude { File = /tmp; File = *.tmp }
        }"#);
    assert_eq!((set.name.as_str(), set.description.as_deref()), ("Linux All", Some("Everything; and more")));
    let include = &set.includes[0];
    assert_eq!(include.files, [&b"/"[..], b"/home/a b", b"/srv"]);
    assert_eq!(include.plugins, [r"python3:module_path=/usr/lib/bareos/plugins:module_name=m:uri=ldap\://host"]);
    assert_eq!(include.exclude_dir_containing, [b".nobackup"]);
    let patterns: Vec<_> = include.options[0].patterns.iter().map(|p| (p.kind, &p.text[..])).collect();
    assert_eq!(
        patterns,
        [
            (PatternKind::WildDir, &b"/proc"[..]),
            (PatternKind::WildFile, b"*.o"),
            (PatternKind::RegexFile, br"^.*\.(iso|img)$")
        ]
    );
    assert!(include.options[0].is_on(bit::CROSS_FILE_SYSTEMS) && include.options[0].is_on(bit::COMPRESS));
    assert!(include.options[1].is_on(bit::EXCLUDE));
    // The last block's bits are those of the plugin lines.
    assert_eq!(include.plugin_flags(), [0x00, 0xe0, 0x00, 0x08, 0x00]);
    assert_eq!(set.excludes[0].files, [&b"/tmp"[..], b"*.tmp"]);
    assert_eq!(
        set.notes,
        [
            "Compression, Signature changes nothing here: every repository compresses, encrypts and hashes what it stores",
            "Enable VSS changes nothing here: only Windows has it",
            "Ignore FileSet Changes changes nothing here: another FileSet never makes a backup read more than what is new in it",
        ]
    );
}

#[test]
fn the_defaults_are_those_of_each_options_block() {
    let set = one("FileSet { Name = a; Include { File = /x } Include { Options { Signature = XXH128 } File = /y } }");
    assert_eq!(set.includes[0].options, [Options::default()]);
    assert_eq!(set.includes[0].plugin_flags(), DEFAULT_FLAGS);
    assert_eq!(set.includes[1].plugin_flags(), [0x00, 0xc0, 0x00, 0x08, 0x02]);
}

#[test]
fn switches_set_their_option_bits() {
    for (text, expected) in [
        ("Portable = yes", vec![10, 14, 15, 27]),
        ("Recurse = no", vec![3, 14, 15, 27]),
        ("Recurse = yes; OneFs = yes; Sparse = no; ReadFifo = no", vec![14, 15, 27]),
        ("OneFs = no", vec![4, 14, 15, 27]),
        ("Sparse = yes", vec![5, 14, 15, 27]),
        ("MtimeOnly = true", vec![11, 14, 15, 27]),
        ("KeepAtime = yes; NoAtime = yes", vec![12, 14, 15, 22, 27]),
        ("Exclude = yes", vec![13, 14, 15, 27]),
        ("Acl Support = no; Xattr Support = no; HardLinks = yes", vec![]),
        ("IgnoreCase = yes; Enhanced Wild = yes", vec![14, 15, 16, 23, 27]),
        ("CheckFileChanges = yes; HonorNodumpFlag = yes", vec![14, 15, 24, 26, 27]),
        ("AutoExclude = no; ForceEncryption = yes; Encryption = AES128", vec![14, 15, 21, 27, 31, 32]),
        ("AutoExclude = yes; StripPath = 0; HfsPlusSupport = no; Replace = always", vec![14, 15, 27]),
        ("Compression = GZIP6; Signature = MD5", vec![1, 2, 14, 15, 27]),
        ("Signature = SHA1; Signature = SHA512", vec![14, 15, 20, 27]),
        ("Signature = SHA1", vec![9, 14, 15, 27]),
        ("Signature = SHA256", vec![14, 15, 19, 27]),
        ("Accurate = mcs; Verify = pins1; BaseJob = pmug; Shadowing = localwarn", vec![14, 15, 27]),
        ("Plugin = \"python3:module_name=x\"", vec![14, 15, 27, 29]),
    ] {
        let (options, _) = options(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let bits: Vec<u32> = (0..40).filter(|bit| options.is_on(*bit)).collect();
        assert_eq!(bits, expected, "{text}");
    }
}

#[test]
fn sizes_and_file_systems_are_kept() {
    for (text, rule) in [
        ("10", SizeRule::About(10)),
        ("2k", SizeRule::About(2048)),
        ("\"less 3 mb\"", SizeRule::Less(3_000_000)),
        ("\"Greater 1G\"", SizeRule::Greater(1 << 30)),
        ("1k-1M", SizeRule::Between(1024, 1 << 20)),
    ] {
        assert_eq!(options(&format!("Size = {text}")).unwrap().0.size, Some(rule), "{text}");
    }
    for text in ["x", "\"less\"", "2q", "2kk", "5-3", "99999999999999999999", "99999999t"] {
        assert!(options(&format!("Size = {text}")).unwrap_err().what.starts_with("Size is not known"), "{text}");
    }
    assert_eq!(options("FsType = ext4; Fs Type = xfs").unwrap().0.fs_types, ["ext4", "xfs"]);
}

#[test]
fn lists_are_expanded_on_either_side() {
    let text: &[u8] = br#"FileSet { Name = x
        Include { File = "</lists/a"; File = "\\<b"; File = "|/c /d"; File = "\\|/e"; File = "/%"
          Plugin = "</lists/p"; Plugin = "|python3:one python3:two%%" }
        Exclude { File = "</lists/a" } }"#;
    let mut system = with(&[
        ("/etc/set.conf", text),
        ("/lists/a", b"/1 \r\n\n /2\n/3\xff"),
        ("/etc/b", b"/4"),
        ("/lists/p", b"python3:x\n"),
    ]);
    system.files.insert("/lists/a", b"/1 \r\n\n/2\n/3\xff".to_vec());
    let set = parse(Path::new("/etc/set.conf"), &mut system).unwrap().remove(0);
    let files: Vec<&[u8]> = set.includes[0].files.iter().map(Vec::as_slice).collect();
    assert_eq!(files, [&b"/1"[..], b"/2", b"/3\xff", b"/4", b"/c", b"/d", b"/e", b"/%"]);
    assert_eq!(set.includes[0].plugins, ["python3:x", "python3:one", "python3:two%"]);
    assert_eq!(set.excludes[0].files, [&b"/1"[..], b"/2", b"/3\xff"]);
    assert_eq!(system.asked.iter().filter(|name| name.starts_with('|')).count(), 3);
}

#[test]
fn a_bad_line_of_a_list_is_named_by_the_list() {
    let mut system = with(&[("/s", b"FileSet { Name = x; Include { File = </l } }"), ("/l", b"/a\nb\n")]);
    let error = parse(Path::new("/s"), &mut system).unwrap_err();
    assert_eq!(error.to_string(), "/l, line 2: File = b is relative: name it from the root, as /...");
}

#[test]
fn other_files_are_included_where_a_statement_may_stand() {
    let mut system = with(&[
        ("/etc/set.conf", b"@\"sets/one\"\n@|\"FileSet{ Name=b;Include{File=/y} }\"\n"),
        ("/etc/sets/one", b"FileSet { Name = a\n Include { @include\n } }"),
        ("/etc/sets/include", b"Options { @/common } File = /x"),
        ("/common", b"\xef\xbb\xbfSparse = yes"),
    ]);
    let sets = parse(Path::new("/etc/set.conf"), &mut system).unwrap();
    assert_eq!(sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(sets[0].includes[0].options[0].is_on(bit::SPARSE));

    let mut system = with(&[("/etc/set.conf", b"\n@set.conf")]);
    let error = parse(Path::new("/etc/set.conf"), &mut system).unwrap_err();
    assert_eq!((error.line, error.what.as_str()), (2, "@set.conf is included too often: does it include itself?"));
    let mut system = with(&[("/etc/set.conf", b"@a\n"), ("/etc/a", b"\n\nJob { }")]);
    let error = parse(Path::new("/etc/set.conf"), &mut system).unwrap_err().to_string();
    assert!(error.starts_with("/etc/a, line 3: "), "{error}");
}

#[test]
fn errors_name_the_line_and_say_what_to_do() {
    let inside = |text: &str| format!("FileSet {{\n Name = x\n Include {{\n{text}\n}} }}");
    for (text, expected) in [
        (String::new(), "/etc/set.conf: there is no FileSet in it: it should read FileSet { Name"),
        ("Fileste { }".into(), "line 1: there is no keyword \"Fileste\" at the top: is \"FileSet\" meant?"),
        ("Job { }".into(), "line 1: there is no keyword \"Job\" at the top: known are FileSet"),
        ("\nFileSet {".into(), "line 2: FileSet { is not closed by }"),
        ("FileSet = x".into(), "line 1: FileSet is followed by {"),
        ("}".into(), "there is a } without a {"),
        ("FileSet { Include { File = /x } }".into(), "this FileSet has no name"),
        ("FileSet { Name = x }".into(), "has no Include"),
        ("FileSet { Nmae = x }".into(), "line 1: there is no keyword \"Nmae\" in a FileSet: is \"Name\" meant?"),
        ("FileSet { Name\n }".into(), "line 1: \"Name\" is followed by neither = nor {"),
        ("FileSet { Name = }".into(), "has no name"),
        ("FileSet { Name =\n Include { } }".into(), "line 1: \"Name =\" has no value"),
        ("FileSet { Name = My Set\n }".into(), "the value of Name ends before its line does: put all of it in quotes"),
        ("FileSet { Name = \"x\n }".into(), "line 1: a text in quotes is not closed on its line"),
        ("FileSet { Name = a\\b }".into(), "put the value of Name in quotes: it has a backslash"),
        ("FileSet { Name = @x }".into(), "put the value of Name in quotes: @ includes a file"),
        ("FileSet { \"Name\" = x }".into(), "a keyword was expected, and there is \""),
        ("@nowhere".into(), "line 1: /etc/nowhere cannot be read: "),
        ("@".into(), "@ is followed by no name of a file"),
        ("@*.conf".into(), "@*.conf is a wildcard"),
        ("@|fail".into(), "the command \"fail\" failed: exit status 1"),
        ("@|\"date +%Y\"".into(), "job codes"),
        (inside("Fil = /a"), "line 4: there is no keyword \"Fil\" in an Include: is \"File\" meant?"),
        (inside("File = a/b"), "line 4: File = a/b is relative"),
        (inside("File = /a, /b"), "the value of File ends before its line does"),
        (inside("File = \"\""), "line 4: File = \"\" names nothing"),
        (inside("File { }"), "line 4: \"File\" is followed by = and a value"),
        (inside("Plugin = \" \""), "line 4: a plugin definition is empty"),
        (inside("Exclude Dir Containing = a/b"), "takes the name of a file, without a slash"),
        (inside("Options = x"), "line 4: \"Options\" is followed by {"),
        (
            inside("Options {\nCompresion = GZIP }"),
            "line 5: there is no keyword \"Compresion\" in Options: is \"Compression\" meant?",
        ),
        (inside("Options { Compression = ZIP }"), "Compression = ZIP is not known: it can be GZIP, GZIP1,"),
        (inside("Options { Signature = CRC }"), "it can be MD5, SHA1, SHA256, SHA512, XXH128"),
        (inside("Options { OneFs = maybe }"), "One FS = maybe is not known: it can be yes or no"),
        (inside("Options { Wild = \"\" }"), "Wild has an empty pattern"),
        (
            inside("Options {\n\nRegexFile = \"(a\"\n }"),
            "line 6: Regex File = \"(a\" cannot be used: a ( is not closed by )",
        ),
        (inside("Options { DriveType = fixed }"), "Drive Type is not supported: only Windows"),
        (inside("Options { Meta = x }"), "Meta is not supported"),
        (inside("Options { StripPath = 2 }"), "Strip Path is not supported"),
        (inside("Options { ReadFifo = yes }"), "Read Fifo = yes is not supported"),
        (inside("Options { HfsPlusSupport = yes }"), "Hfs Plus Support = yes is not supported"),
        (inside("Options { Accurate = mcs5 }"), "backup --force"),
        (inside("Options { Accurate = q }"), "q is none of the letters"),
        (inside("Options { Replace = never }"), "Replace is not supported in a FileSet"),
        (inside("} Exclude { Plugin = x"), "Plugin is not allowed in an Exclude"),
        (inside("} Exclude { Options { }"), "Options is not allowed in an Exclude"),
        (
            "FileSet { Name = a; Include { } } FileSet { Name = a; Include { } }".into(),
            "two FileSets with the name \"a\"",
        ),
    ] {
        let found = error(&text);
        assert!(found.contains(expected), "{text}\n{found}\n{expected}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn names_are_kept_byte_for_byte() {
    let set = read(b"FileSet { Name = x; Include { File = \"/\xff\\\"\\\\x;#\" } }").unwrap().remove(0);
    assert_eq!(set.includes[0].files, [b"/\xff\"\\x;#"]);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_in_one_line(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = read(&text) {
            prop_assert!(error.line <= text.iter().filter(|byte| **byte == b'\n').count() + 1);
        }
    }

    #[test]
    fn what_looks_like_a_file_set_is_read_or_refused(
        text in "(FileSet|Include|Options|Exclude|File|Wild|Name|Plugin|[{}=;\n\"#@ a/]){0,40}"
    ) {
        let _ = read(text.as_bytes());
    }

    #[test]
    fn every_name_in_quotes_comes_back(name in proptest::collection::vec(any::<u8>(), 0..20)) {
        prop_assume!(!name.contains(&b'\n') && !name.contains(&0));
        let mut text = b"FileSet { Name = x; Include { File = \"/".to_vec();
        text.extend(name.iter().flat_map(|byte| [b'\\', *byte]));
        text.extend(b"\" } }");
        let set = read(&text).unwrap().remove(0);
        prop_assert_eq!(&set.includes[0].files[0][1..], &name[..]);
    }
}
