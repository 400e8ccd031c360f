//! What a FileSet says. These values travel to the plugin worker in the job specification.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Numbers of the option bits (reference 2.3) that Options directives set.
#[allow(missing_docs)]
pub mod bit {
    pub const MD5: u32 = 1;
    pub const COMPRESS: u32 = 2;
    pub const NO_RECURSION: u32 = 3;
    pub const CROSS_FILE_SYSTEMS: u32 = 4;
    pub const SPARSE: u32 = 5;
    pub const READ_FIFO: u32 = 8;
    pub const SHA1: u32 = 9;
    pub const PORTABLE: u32 = 10;
    pub const MTIME_ONLY: u32 = 11;
    pub const KEEP_ATIME: u32 = 12;
    pub const EXCLUDE: u32 = 13;
    pub const ACL: u32 = 14;
    pub const NO_HARD_LINKS: u32 = 15;
    pub const IGNORE_CASE: u32 = 16;
    pub const HFS_PLUS: u32 = 17;
    pub const SHA256: u32 = 19;
    pub const SHA512: u32 = 20;
    pub const ENCRYPT: u32 = 21;
    pub const NO_ATIME: u32 = 22;
    pub const ENHANCED_WILD: u32 = 23;
    pub const CHECK_CHANGES: u32 = 24;
    pub const STRIP_PATH: u32 = 25;
    pub const HONOR_NODUMP: u32 = 26;
    pub const XATTR: u32 = 27;
    pub const PLUGIN: u32 = 29;
    pub const NO_AUTO_EXCLUDE: u32 = 31;
    pub const FORCE_ENCRYPTION: u32 = 32;
    pub const XXH128: u32 = 33;
}

/// The option bits of an Options block that says nothing: ACLs and extended attributes are saved, hard links are not
/// followed up (reference 12.4).
pub const DEFAULT_FLAGS: [u8; 5] = [0x00, 0xc0, 0x00, 0x08, 0x00];

/// One FileSet resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSet {
    /// `Name`.
    pub name: String,
    /// `Description`.
    pub description: Option<String>,
    /// The Include blocks, in order.
    pub includes: Vec<Include>,
    /// The Exclude blocks, in order.
    pub excludes: Vec<Exclude>,
    /// What the reader should know of directives that were read and change nothing here: one line each.
    pub notes: Vec<String>,
}

/// An Include block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Include {
    /// The Options blocks in order; at least one.
    pub options: Vec<Options>,
    /// `File =`: absolute paths, lists expanded.
    pub files: Vec<Vec<u8>>,
    /// `Plugin =`: definitions, lists expanded.
    pub plugins: Vec<String>,
    /// `Exclude Dir Containing =`: names; a directory that holds one of them is left out.
    pub exclude_dir_containing: Vec<Vec<u8>>,
}

impl Include {
    /// The option bits for SavePackets of this Include's `Plugin =` lines: those of the last Options block (reference
    /// 12.4).
    #[must_use]
    pub fn plugin_flags(&self) -> [u8; 5] {
        self.options.last().map_or(DEFAULT_FLAGS, |options| options.flags)
    }
}

/// An Exclude block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclude {
    /// `File =`: wildcards that whole names are compared with, lists expanded.
    pub files: Vec<Vec<u8>>,
}

/// An Options block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The option bits (reference 2.3).
    pub flags: [u8; 5],
    /// `Wild...` and `Regex...` in the order given.
    pub patterns: Vec<Pattern>,
    /// `Size`: which regular files are saved.
    pub size: Option<SizeRule>,
    /// `Fs Type`: the file systems that are walked, all if there is none.
    pub fs_types: Vec<String>,
    /// `Accurate`: letters for what tells a changed file in an accurate job.
    pub accurate: Option<String>,
    /// `Plugin`: the definition of an option plugin.
    pub plugin: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flags: DEFAULT_FLAGS,
            patterns: Vec::new(),
            size: None,
            fs_types: Vec::new(),
            accurate: None,
            plugin: None,
        }
    }
}

impl Options {
    /// Whether an option bit is set.
    #[must_use]
    pub fn is_on(&self, bit: u32) -> bool {
        self.flags.get(bit as usize >> 3).is_some_and(|byte| byte & (1 << (bit & 7)) != 0)
    }

    /// Sets or clears an option bit. Numbers past the five bytes do nothing.
    pub fn set(&mut self, bit: u32, on: bool) {
        if let Some(byte) = self.flags.get_mut(bit as usize >> 3) {
            let mask = 1 << (bit & 7);
            if on { *byte |= mask } else { *byte &= !mask }
        }
    }
}

/// A pattern of an Options block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// What it is compared with.
    pub kind: PatternKind,
    /// The pattern, exact bytes.
    pub text: Vec<u8>,
}

/// Which directive a pattern stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatternKind {
    /// `Wild`: whole names of files and directories.
    Wild,
    /// `Wild Dir`: whole names of directories.
    WildDir,
    /// `Wild File`: whole names of what is no directory.
    WildFile,
    /// `Wild Base`: last components of names of what is no directory.
    WildBase,
    /// `Regex`: whole names of files and directories.
    Regex,
    /// `Regex Dir`: whole names of directories.
    RegexDir,
    /// `Regex File`: whole names of what is no directory.
    RegexFile,
}

impl PatternKind {
    /// The directive as it is written.
    #[must_use]
    pub fn directive(self) -> &'static str {
        match self {
            Self::Wild => "Wild",
            Self::WildDir => "Wild Dir",
            Self::WildFile => "Wild File",
            Self::WildBase => "Wild Base",
            Self::Regex => "Regex",
            Self::RegexDir => "Regex Dir",
            Self::RegexFile => "Regex File",
        }
    }
}

/// `Size`: which regular files are saved, by their length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SizeRule {
    /// `SIZE`: within one per cent.
    About(u64),
    /// `less SIZE`.
    Less(u64),
    /// `greater SIZE`.
    Greater(u64),
    /// `SIZE-SIZE`, both ends included.
    Between(u64, u64),
}

impl SizeRule {
    /// The lengths of the files that are saved.
    #[must_use]
    #[allow(clippy::reversed_empty_ranges)]
    pub fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::About(about) => about - about / 100..=about.saturating_add(about / 100),
            // No file is shorter than nothing, or longer than everything.
            Self::Less(limit) => limit.checked_sub(1).map_or(1..=0, |most| 0..=most),
            Self::Greater(limit) => limit.checked_add(1).map_or(1..=0, |least| least..=u64::MAX),
            Self::Between(low, high) => low..=high,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_bits_stand_where_plugins_look_for_them() {
        let mut options = Options::default();
        assert!(options.is_on(bit::ACL) && options.is_on(bit::XATTR) && options.is_on(bit::NO_HARD_LINKS));
        options.set(bit::XXH128, true);
        // Measured: the default file set with Signature = XXH128.
        assert_eq!(options.flags, [0x00, 0xc0, 0x00, 0x08, 0x02]);
        options.set(bit::NO_HARD_LINKS, false);
        assert_eq!(options.flags, [0x00, 0x40, 0x00, 0x08, 0x02]);
        options.set(99, true);
        assert!(!options.is_on(99));
    }

    #[test]
    fn size_rules_take_their_ends_as_documented() {
        for (rule, inside, outside) in [
            (SizeRule::About(1000), [990, 1010], [989, 1011]),
            (SizeRule::Less(10), [0, 9], [10, 11]),
            (SizeRule::Greater(10), [11, u64::MAX], [10, 0]),
            (SizeRule::Between(5, 7), [5, 7], [4, 8]),
        ] {
            assert!(inside.iter().all(|size| rule.range().contains(size)), "{rule:?}");
            assert!(!outside.iter().any(|size| rule.range().contains(size)), "{rule:?}");
        }
        assert!(SizeRule::About(u64::MAX).range().contains(&u64::MAX));
        assert!(SizeRule::Less(0).range().is_empty() && SizeRule::Greater(u64::MAX).range().is_empty());
    }
}
