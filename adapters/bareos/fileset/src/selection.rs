//! Which names a FileSet selects (reference 6.5, last paragraph): a pure function of a name and whether it is a directory.

use crate::model::{Exclude, Include, Options, PatternKind, bit};
use crate::regular::{Regular, RegularError};
use crate::wildcard::{Wildcard, WildcardOptions};

/// The Options blocks of an Include and the Exclude blocks, ready to be asked about names.
#[derive(Clone, Debug)]
pub struct Selection {
    blocks: Vec<Block>,
    excluded: Vec<(Wildcard, String)>,
}

#[derive(Clone, Debug)]
struct Block {
    excludes: bool,
    has_patterns: bool,
    wild_dir: Vec<Rule<Wildcard>>,
    wild_file: Vec<Rule<Wildcard>>,
    wild_base: Vec<Rule<Wildcard>>,
    wild: Vec<Rule<Wildcard>>,
    regex_dir: Vec<Rule<Regular>>,
    regex_file: Vec<Rule<Regular>>,
    regex: Vec<Rule<Regular>>,
}

#[derive(Clone, Debug)]
struct Rule<T> {
    matcher: T,
    /// As somebody reads it: the directive and the pattern.
    text: String,
}

/// What becomes of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it is selected.
    pub accepted: bool,
    /// The Options block in force for it: the one that decided, else the last one.
    pub options: usize,
    /// What decided: a directive with its pattern. None: nothing did, so that it is selected.
    pub rule: Option<&'a str>,
}

impl Selection {
    /// The rule of one Include.
    ///
    /// # Errors
    /// A regular expression that cannot be used, with its directive. What was parsed has none.
    pub fn new(include: &Include, excludes: &[Exclude]) -> Result<Self, (PatternKind, RegularError)> {
        let blocks = include.options.iter().map(Block::new).collect::<Result<Vec<_>, _>>()?;
        let keep_slashes = include.options.last().is_some_and(|options| options.is_on(bit::ENHANCED_WILD));
        let options = WildcardOptions { keep_slashes, ignore_case: false };
        let excluded = excludes
            .iter()
            .flat_map(|exclude| &exclude.files)
            .map(|file| (Wildcard::new(file, options), format!("Exclude File = {}", shown(file))))
            .collect();
        Ok(Self { blocks, excluded })
    }

    /// Decides about `name`: an absolute path without a slash at its end.
    #[must_use]
    pub fn decide(&self, name: &[u8], is_directory: bool) -> Decision<'_> {
        for (options, block) in self.blocks.iter().enumerate() {
            if let Some(rule) = block.matching(name, is_directory) {
                return Decision { accepted: !block.excludes, options, rule: Some(rule) };
            }
            if block.excludes && !block.has_patterns {
                return Decision { accepted: false, options, rule: Some("Exclude = yes without a pattern") };
            }
        }
        let rule = self.excluded.iter().find(|(wildcard, _)| wildcard.matches(name)).map(|(_, text)| text.as_str());
        Decision { accepted: rule.is_none(), options: self.blocks.len().saturating_sub(1), rule }
    }
}

impl Block {
    fn new(options: &Options) -> Result<Self, (PatternKind, RegularError)> {
        let ignore_case = options.is_on(bit::IGNORE_CASE);
        let wildcards = WildcardOptions { keep_slashes: options.is_on(bit::ENHANCED_WILD), ignore_case };
        let mut block = Self {
            excludes: options.is_on(bit::EXCLUDE),
            has_patterns: !options.patterns.is_empty(),
            wild_dir: Vec::new(),
            wild_file: Vec::new(),
            wild_base: Vec::new(),
            wild: Vec::new(),
            regex_dir: Vec::new(),
            regex_file: Vec::new(),
            regex: Vec::new(),
        };
        for pattern in &options.patterns {
            let text = format!("{} = {}", pattern.kind.directive(), shown(&pattern.text));
            let list = match pattern.kind {
                PatternKind::Wild => &mut block.wild,
                PatternKind::WildDir => &mut block.wild_dir,
                PatternKind::WildFile => &mut block.wild_file,
                PatternKind::WildBase => &mut block.wild_base,
                PatternKind::Regex | PatternKind::RegexDir | PatternKind::RegexFile => {
                    let matcher = Regular::new(&pattern.text, ignore_case).map_err(|error| (pattern.kind, error))?;
                    let expressions = match pattern.kind {
                        PatternKind::RegexDir => &mut block.regex_dir,
                        PatternKind::RegexFile => &mut block.regex_file,
                        _ => &mut block.regex,
                    };
                    expressions.push(Rule { matcher, text });
                    continue;
                }
            };
            list.push(Rule { matcher: Wildcard::new(&pattern.text, wildcards), text });
        }
        Ok(block)
    }

    /// The first pattern that matches, in the order of the contract.
    fn matching(&self, name: &[u8], is_directory: bool) -> Option<&str> {
        let wild = |rules: &'_ [Rule<Wildcard>], name: &[u8]| rules.iter().position(|rule| rule.matcher.matches(name));
        let regular = |rules: &'_ [Rule<Regular>]| rules.iter().position(|rule| rule.matcher.matches(name));
        if is_directory {
            if let Some(at) = wild(&self.wild_dir, name) {
                return Some(&self.wild_dir[at].text);
            }
        } else {
            if let Some(at) = wild(&self.wild_file, name) {
                return Some(&self.wild_file[at].text);
            }
            let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
            if let Some(at) = wild(&self.wild_base, base) {
                return Some(&self.wild_base[at].text);
            }
        }
        if let Some(at) = wild(&self.wild, name) {
            return Some(&self.wild[at].text);
        }
        let own = if is_directory { &self.regex_dir } else { &self.regex_file };
        if let Some(at) = regular(own) {
            return Some(&own[at].text);
        }
        regular(&self.regex).map(|at| self.regex[at].text.as_str())
    }
}

fn shown(pattern: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(pattern))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Pattern;

    fn options(excludes: bool, patterns: &[(PatternKind, &str)]) -> Options {
        let mut options = Options::default();
        options.set(bit::EXCLUDE, excludes);
        options.patterns =
            patterns.iter().map(|(kind, text)| Pattern { kind: *kind, text: text.as_bytes().to_vec() }).collect();
        options
    }

    fn selection(options: Vec<Options>, excluded: &[&str]) -> Selection {
        let include = Include { options, ..Include::default() };
        let files = excluded.iter().map(|file| file.as_bytes().to_vec()).collect();
        Selection::new(&include, &[Exclude { files }]).unwrap()
    }

    use PatternKind::{Regex, RegexDir, RegexFile, Wild, WildBase, WildDir, WildFile};

    #[test]
    fn without_a_rule_everything_is_selected() {
        let selection = selection(vec![Options::default()], &[]);
        assert_eq!(selection.decide(b"/x", false), Decision { accepted: true, options: 0, rule: None });
    }

    #[test]
    fn the_first_block_that_matches_decides_and_is_in_force() {
        let selection = selection(
            vec![options(false, &[(Wild, "*.keep.o")]), options(true, &[(Wild, "*.o")]), options(false, &[])],
            &[],
        );
        let decision = selection.decide(b"/a.keep.o", false);
        assert_eq!((decision.accepted, decision.options, decision.rule), (true, 0, Some("Wild = \"*.keep.o\"")));
        let decision = selection.decide(b"/a.o", false);
        assert_eq!((decision.accepted, decision.options, decision.rule), (false, 1, Some("Wild = \"*.o\"")));
        assert_eq!(selection.decide(b"/a", false), Decision { accepted: true, options: 2, rule: None });
    }

    #[test]
    fn each_kind_looks_at_its_own_names() {
        for (kind, pattern, file, directory) in [
            (Wild, "*/x", true, true),
            (WildDir, "*/x", false, true),
            (WildFile, "*/x", true, false),
            (WildBase, "x", true, false),
            (WildBase, "*/x", false, false),
            (Regex, "/x$", true, true),
            (RegexDir, "/x$", false, true),
            (RegexFile, "/x$", true, false),
        ] {
            let selection = selection(vec![options(true, &[(kind, pattern)])], &[]);
            assert_eq!(!selection.decide(b"/a/x", false).accepted, file, "{kind:?}");
            assert_eq!(!selection.decide(b"/a/x", true).accepted, directory, "{kind:?}");
        }
    }

    #[test]
    fn within_a_block_the_kinds_are_asked_in_the_order_of_the_contract() {
        let all = [
            (Regex, ".*"),
            (RegexFile, ".*"),
            (RegexDir, ".*"),
            (Wild, "*"),
            (WildBase, "*"),
            (WildFile, "*"),
            (WildDir, "*"),
        ];
        let rules = |is_directory: bool| {
            let mut left = all.to_vec();
            let mut order = Vec::new();
            while let Some(rule) = selection(vec![options(true, &left)], &[]).decide(b"/x", is_directory).rule {
                let Some(at) = left.iter().position(|(kind, _)| rule.starts_with(&format!("{} =", kind.directive())))
                else {
                    break;
                };
                order.push(left.remove(at).0);
            }
            order
        };
        assert_eq!(rules(false), [WildFile, WildBase, Wild, RegexFile, Regex]);
        assert_eq!(rules(true), [WildDir, Wild, RegexDir, Regex]);
    }

    #[test]
    fn an_excluding_block_without_a_pattern_rejects_the_rest() {
        let blocks = vec![options(false, &[(WildDir, "/home/*"), (Wild, "*.txt")]), options(true, &[])];
        let selection = selection(blocks, &[]);
        assert!(selection.decide(b"/home/a", true).accepted && selection.decide(b"/home/a/b.txt", false).accepted);
        assert!(!selection.decide(b"/home/a/b.doc", false).accepted);
    }

    #[test]
    fn excluded_names_are_wildcards_and_asked_last() {
        let selection = selection(vec![options(false, &[(WildFile, "*.keep")])], &["/tmp", "/home/*/cache", "*.o"]);
        for name in ["/tmp", "/home/a/cache", "/home/a/b/cache", "/x/y.o"] {
            assert!(!selection.decide(name.as_bytes(), true).accepted, "{name}");
        }
        assert_eq!(selection.decide(b"/tmp", true).rule, Some("Exclude File = \"/tmp\""));
        for name in ["/tmp/x", "/tmpx", "/home/cache", "/TMP"] {
            assert!(selection.decide(name.as_bytes(), true).accepted, "{name}");
        }
        // A block that accepts has the last word.
        let chosen = self::selection(vec![options(false, &[(WildFile, "*.o")])], &["*.o"]);
        assert!(chosen.decide(b"/x.o", false).accepted && !chosen.decide(b"/x.o", true).accepted);
    }

    #[test]
    fn enhanced_wildcards_and_case_belong_to_their_block() {
        let mut enhanced = options(true, &[(Wild, "/a/*/c")]);
        enhanced.set(bit::ENHANCED_WILD, true);
        let mut folded = options(true, &[(Wild, "*.TMP"), (Regex, "\\.BAK$")]);
        folded.set(bit::IGNORE_CASE, true);
        let selection = selection(vec![enhanced, folded], &[]);
        assert!(!selection.decide(b"/a/b/c", false).accepted && selection.decide(b"/a/b/b/c", false).accepted);
        assert!(!selection.decide(b"/x.tmp", false).accepted && !selection.decide(b"/x.bak", false).accepted);
        assert!(selection.decide(b"/A/b/c", false).accepted);
    }

    proptest! {
        #[test]
        fn a_name_is_rejected_only_by_a_rule(name: Vec<u8>, is_directory: bool, excludes: bool, pattern in "[a-z*/?]{0,6}") {
            for kind in [Wild, WildDir, WildFile, WildBase] {
                let selection = selection(vec![options(excludes, &[(kind, &pattern)])], &[]);
                let decision = selection.decide(&name, is_directory);
                prop_assert!(decision.accepted || decision.rule.is_some());
                prop_assert!(decision.accepted || excludes);
            }
        }

        #[test]
        fn what_travels_to_the_worker_comes_back_the_same(text: Vec<u8>, flags: [u8; 5], size: Option<u64>) {
            let options = Options {
                flags,
                patterns: vec![Pattern { kind: Wild, text: text.clone() }],
                size: size.map(crate::SizeRule::Less),
                fs_types: vec!["ext4".to_owned()],
                accurate: Some("mcs".to_owned()),
                plugin: Some("python3:module_name=x".to_owned()),
            };
            let include = Include { options: vec![options], files: vec![text], ..Include::default() };
            let set = crate::FileSet { name: "n".to_owned(), includes: vec![include], ..crate::FileSet::default() };
            let bytes = postcard::to_allocvec(&set).unwrap();
            prop_assert_eq!(postcard::from_bytes::<crate::FileSet>(&bytes).unwrap(), set);
        }
    }
}
