//! The words of a FileSet. Upper and lower case and blanks make no difference: `Wild Dir` is `wilddir`.

use crate::model::{PatternKind, bit};

/// What a directive of an Options block does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// A pattern.
    Pattern(PatternKind),
    /// Yes sets the bit.
    Sets(u32),
    /// No sets the bit.
    Clears(u32),
    /// Only this answer can be honoured; the sentence says why.
    Only(bool, u32, &'static str),
    /// Yes or no (the bit is for plugins), which changes nothing for files; the sentence is told once.
    Harmless(u32, bool, &'static str),
    Compression,
    Signature,
    Encryption,
    Accurate,
    /// Letters that mean nothing here; the sentence is told once.
    Letters(&'static str),
    Shadowing,
    StripPath,
    Size,
    FsType,
    Replace,
    Plugin,
    /// We do not have it: why.
    Refused(&'static str),
}

/// A directive: as it is compared, as it is written, and what it does.
pub(crate) struct Directive {
    pub(crate) word: &'static str,
    pub(crate) written: &'static str,
    pub(crate) action: Action,
}

const fn directive(word: &'static str, written: &'static str, action: Action) -> Directive {
    Directive { word, written, action }
}

const ALWAYS_STORED: &str = "every repository compresses, encrypts and hashes what it stores";
const NO_ATIME: &str = "files are read without a change of their access time wherever the system allows that";

pub(crate) const OPTIONS: &[Directive] = &[
    directive("wild", "Wild", Action::Pattern(PatternKind::Wild)),
    directive("wilddir", "Wild Dir", Action::Pattern(PatternKind::WildDir)),
    directive("wildfile", "Wild File", Action::Pattern(PatternKind::WildFile)),
    directive("wildbase", "Wild Base", Action::Pattern(PatternKind::WildBase)),
    directive("regex", "Regex", Action::Pattern(PatternKind::Regex)),
    directive("regexdir", "Regex Dir", Action::Pattern(PatternKind::RegexDir)),
    directive("regexfile", "Regex File", Action::Pattern(PatternKind::RegexFile)),
    directive("exclude", "Exclude", Action::Sets(bit::EXCLUDE)),
    directive("ignorecase", "Ignore Case", Action::Sets(bit::IGNORE_CASE)),
    directive("enhancedwild", "Enhanced Wild", Action::Sets(bit::ENHANCED_WILD)),
    directive("onefs", "One FS", Action::Clears(bit::CROSS_FILE_SYSTEMS)),
    directive("recurse", "Recurse", Action::Clears(bit::NO_RECURSION)),
    directive("hardlinks", "Hard Links", Action::Clears(bit::NO_HARD_LINKS)),
    directive("aclsupport", "Acl Support", Action::Sets(bit::ACL)),
    directive("xattrsupport", "Xattr Support", Action::Sets(bit::XATTR)),
    directive("mtimeonly", "Mtime Only", Action::Sets(bit::MTIME_ONLY)),
    directive("honornodumpflag", "Honor Nodump Flag", Action::Sets(bit::HONOR_NODUMP)),
    directive("sparse", "Sparse", Action::Harmless(bit::SPARSE, true, "holes in files are always found")),
    directive(
        "portable",
        "Portable",
        Action::Harmless(bit::PORTABLE, true, "data is always stored in one format that every system reads"),
    ),
    directive("keepatime", "Keep Atime", Action::Harmless(bit::KEEP_ATIME, true, NO_ATIME)),
    directive("noatime", "No Atime", Action::Harmless(bit::NO_ATIME, true, NO_ATIME)),
    directive(
        "checkfilechanges",
        "Check File Changes",
        Action::Harmless(bit::CHECK_CHANGES, true, "a file that changes while it is read is always noticed"),
    ),
    directive(
        "autoexclude",
        "Auto Exclude",
        Action::Harmless(bit::NO_AUTO_EXCLUDE, false, "only Windows has such a list of files"),
    ),
    directive("forceencryption", "Force Encryption", Action::Harmless(bit::FORCE_ENCRYPTION, true, ALWAYS_STORED)),
    directive("compression", "Compression", Action::Compression),
    directive("signature", "Signature", Action::Signature),
    directive("encryption", "Encryption", Action::Encryption),
    directive("accurate", "Accurate", Action::Accurate),
    directive(
        "verify",
        "Verify",
        Action::Letters("there are no verify jobs: \"backstay check\" verifies what is stored"),
    ),
    directive("basejob", "Base Job", Action::Letters("there are no base jobs: equal contents are stored once anyway")),
    directive("shadowing", "Shadowing", Action::Shadowing),
    directive("strippath", "Strip Path", Action::StripPath),
    directive("size", "Size", Action::Size),
    directive("fstype", "Fs Type", Action::FsType),
    directive("replace", "Replace", Action::Replace),
    directive("plugin", "Plugin", Action::Plugin),
    directive("readfifo", "Read Fifo", Action::Only(false, bit::READ_FIFO, "pipes are saved, never read")),
    directive(
        "hfsplussupport",
        "Hfs Plus Support",
        Action::Only(false, bit::HFS_PLUS, "only macOS has resource forks"),
    ),
    directive("drivetype", "Drive Type", Action::Refused("only Windows has drive types; on Linux there is Fs Type")),
    directive("meta", "Meta", Action::Refused("it belongs to NDMP backups, which are not supported")),
    directive("reader", "Reader", Action::Refused("programs that read files instead are not supported")),
    directive("writer", "Writer", Action::Refused("programs that write files instead are not supported")),
];

pub(crate) const ACCURATE_NOTE: &str = "it is for plugins; whether a file changed is decided by size, mtime, ctime and inode number of \
     the parent snapshot's file";
pub(crate) const STORED_NOTE: &str = ALWAYS_STORED;

/// The words of a FileSet resource itself.
pub(crate) const FILE_SET: &[&str] =
    &["Name", "Description", "Ignore FileSet Changes", "Enable VSS", "Include", "Exclude"];
/// The words of an Include block.
pub(crate) const INCLUDE: &[&str] = &["Options", "File", "Plugin", "Exclude Dir Containing"];
/// The words of an Exclude block.
pub(crate) const EXCLUDE: &[&str] = &["File"];

/// A word as it is compared.
pub(crate) fn plain(word: &[u8]) -> String {
    let kept: Vec<u8> = word.iter().filter(|byte| !byte.is_ascii_whitespace()).map(u8::to_ascii_lowercase).collect();
    String::from_utf8_lossy(&kept).into_owned()
}

/// The word that was probably meant: at most two letters differ, one in a short word.
pub(crate) fn meant<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(40).collect();
    let most = if word.len() < 5 { 1 } else { 2 };
    known
        .map(|candidate| (distance(&word, &plain(candidate.as_bytes()).chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to add, remove, replace, or to swap with their neighbour.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_finds_the_word_that_was_meant() {
        let known = || OPTIONS.iter().map(|directive| directive.written);
        assert_eq!(meant("wildifle", known()), Some("Wild File"));
        assert_eq!(meant("compresion", known()), Some("Compression"));
        assert_eq!(meant("onfs", known()), Some("One FS"));
        assert_eq!(meant("job", known()), None);
        assert_eq!(meant("fil", INCLUDE.iter().copied()), Some("File"));
    }

    #[test]
    fn words_are_compared_without_blanks_and_case() {
        assert_eq!(plain(b"Wild\t DIR "), "wilddir");
        for directive in OPTIONS {
            assert_eq!(plain(directive.written.as_bytes()), directive.word);
        }
    }
}
