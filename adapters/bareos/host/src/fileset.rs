//! A FileSet as what the engine needs: the roots of its file trees, the rules for them, and its plugin lines.
//!
//! Each Include is a set of rules of its own (reference 6.5): a file that two Includes select is saved once, as the first of
//! the two treats it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_bareos_fileset::{FileSet, Include, Options, Selection, SizeRule, bit};
use backstay_bareos_protocol::LineRules;
use backstay_engine::tree::{Pick, Selector, Treatment, absolute, known_file_system};

use crate::accurate::{AccurateError, AccurateOptions};
use crate::source::PluginLine;

/// Includes with files, at most: one bit of a set of rules each.
const MOST_INCLUDES: usize = 64;

/// What a FileSet asks for.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The roots of file trees.
    pub roots: Vec<PathBuf>,
    /// The rules for them.
    pub selector: Arc<dyn Selector>,
    /// The plugin lines, with the option bits of their Includes.
    pub lines: Vec<PluginLine>,
    /// The option plugins, with the option bits of their Options blocks. `selector` offers each of them files under its
    /// place here.
    pub option_lines: Vec<PluginLine>,
    /// What the plugins' Options say of accurate jobs.
    pub accurate: Option<AccurateOptions>,
}

/// A FileSet that cannot be honoured: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the FileSet \"{name}\" cannot be used: {reason}")]
pub struct FileSetError {
    name: String,
    reason: String,
}

/// What `set` asks for.
///
/// # Errors
/// Something in it that we cannot do.
pub fn plan(set: &FileSet) -> Result<Planned, FileSetError> {
    let refused = |reason: String| FileSetError { name: set.name.clone(), reason };
    let mut planned = Planned {
        roots: Vec::new(),
        selector: Arc::new(Rules::default()),
        lines: Vec::new(),
        option_lines: Vec::new(),
        accurate: accurate(set).map_err(refused)?,
    };
    let mut rules = Rules::default();
    for include in &set.includes {
        let around = Include { options: include.options.clone(), ..Include::default() };
        let line_rules = Arc::new(LineRules { include: around, excludes: set.excludes.clone() });
        let line = |definition: &String, flags| PluginLine {
            definition: definition.clone(),
            flags,
            rules: Some(Arc::clone(&line_rules)),
        };
        planned.lines.extend(include.plugins.iter().map(|text| line(text, include.plugin_flags())));
        if include.files.is_empty() {
            continue;
        }
        let mut roots = HashSet::new();
        for file in &include.files {
            let path = absolute(Path::new(&OsString::from_vec(file.clone()))).map_err(|e| refused(e.to_string()))?;
            roots.insert(path.as_os_str().as_bytes().to_vec());
            planned.roots.push(path);
        }
        let selection = Selection::new(include, &set.excludes)
            .map_err(|(kind, error)| refused(format!("{}: {error}", kind.directive())))?;
        let mut treatments = Vec::with_capacity(include.options.len());
        for options in &include.options {
            if let Some(kind) = options.fs_types.iter().find(|kind| !known_file_system(kind)) {
                return Err(refused(format!("Fs Type = {kind} is no kind of file system that is known here")));
            }
            let mut treatment = treatment(include, options);
            if let Some(definition) = &options.plugin {
                treatment.offered = u32::try_from(planned.option_lines.len()).ok();
                planned.option_lines.push(line(definition, options.flags));
            }
            treatments.push(treatment);
        }
        rules.includes.push(IncludeRules { roots, selection, treatments });
    }
    if rules.includes.len() > MOST_INCLUDES {
        return Err(refused(format!("it has more than {MOST_INCLUDES} Includes with files")));
    }
    if planned.roots.is_empty() && planned.lines.is_empty() {
        return Err(refused("it has neither a File nor a Plugin in an Include".to_owned()));
    }
    planned.selector = Arc::new(rules);
    Ok(planned)
}

/// What the Options say that hold for plugins: one job has one rule.
fn accurate(set: &FileSet) -> Result<Option<AccurateOptions>, String> {
    let lines = set.includes.iter().filter(|include| !include.plugins.is_empty()).filter_map(|i| i.options.last());
    let options = set.includes.iter().filter(|include| !include.files.is_empty()).flat_map(|i| &i.options);
    let mut said = lines.chain(options.filter(|options| options.plugin.is_some())).map(|options| &options.accurate);
    let first = said.next().cloned().flatten();
    if said.any(|other| *other != first) {
        return Err("its plugins' Options differ in Accurate, and a job has one".to_owned());
    }
    first.map(|letters| letters.parse().map_err(|error: AccurateError| error.to_string())).transpose()
}

fn treatment(include: &Include, options: &Options) -> Treatment {
    Treatment {
        one_file_system: !options.is_on(bit::CROSS_FILE_SYSTEMS),
        recurse: !options.is_on(bit::NO_RECURSION),
        file_systems: options.fs_types.clone(),
        leave_out_holding: include.exclude_dir_containing.clone(),
        honor_nodump: options.is_on(bit::HONOR_NODUMP),
        ignore_ctime: options.is_on(bit::MTIME_ONLY),
        hard_links: !options.is_on(bit::NO_HARD_LINKS),
        acls: options.is_on(bit::ACL),
        xattrs: options.is_on(bit::XATTR),
        sizes: options.size.map(SizeRule::range),
        offered: None,
    }
}

/// The rules of all Includes that have files.
#[derive(Debug, Default)]
struct Rules {
    includes: Vec<IncludeRules>,
}

#[derive(Debug)]
struct IncludeRules {
    roots: HashSet<Vec<u8>>,
    selection: Selection,
    /// One for each Options block.
    treatments: Vec<Treatment>,
}

impl Selector for Rules {
    fn select(&self, path: &[u8], is_directory: bool, above: u64) -> Result<Vec<Pick<'_>>, String> {
        let mut picks = Vec::new();
        let mut rule = None;
        for (number, include) in self.includes.iter().enumerate() {
            let set = 1 << number;
            let is_root = include.roots.contains(path);
            if !is_root && above & set == 0 {
                continue;
            }
            let decision = include.selection.decide(path, is_directory);
            match include.treatments.get(decision.options) {
                Some(treatment) if decision.accepted => picks.push(Pick { set, is_root, treatment }),
                _ => rule = rule.or(decision.rule),
            }
        }
        if picks.is_empty() { Err(rule.unwrap_or("no Include names it").to_owned()) } else { Ok(picks) }
    }
}

#[cfg(test)]
mod tests {
    use backstay_bareos_fileset::{Exclude, Pattern, PatternKind};

    use super::*;

    fn include(files: &[&str], options: Options) -> Include {
        let files = files.iter().map(|file| file.as_bytes().to_vec()).collect();
        Include { files, options: vec![options], ..Include::default() }
    }

    fn set(includes: Vec<Include>) -> FileSet {
        FileSet { name: "n".to_owned(), includes, ..FileSet::default() }
    }

    #[test]
    fn an_entry_belongs_to_the_includes_that_walk_the_directory_above_it() {
        let mut options = Options::default();
        options.set(bit::EXCLUDE, true);
        options.patterns = vec![Pattern { kind: PatternKind::Wild, text: b"*.o".to_vec() }];
        let set = set(vec![include(&["/a/"], options), include(&["/a/b"], Options::default())]);
        let planned = plan(&set).unwrap();
        assert_eq!(planned.roots, [PathBuf::from("/a"), "/a/b".into()]);
        let sets = |path: &str, above: u64| {
            let picks = planned.selector.select(path.as_bytes(), false, above);
            picks.map(|picks| picks.iter().map(|pick| (pick.set, pick.is_root)).collect::<Vec<_>>())
        };
        assert_eq!(sets("/a", 0), Ok(vec![(1, true)]));
        assert_eq!(sets("/a/b", 1), Ok(vec![(1, false), (2, true)]));
        assert_eq!(sets("/a/b/x.o", 3), Ok(vec![(2, false)]));
        assert_eq!(sets("/a/x.o", 1), Err("Wild = \"*.o\"".to_owned()));
        assert!(sets("/a/x", 0).is_err());
    }

    #[test]
    fn plugin_lines_have_the_bits_of_their_include() {
        let mut options = Options::default();
        options.set(bit::SPARSE, true);
        let mut with_plugin = include(&[], options.clone());
        with_plugin.plugins = vec!["python3:module_name=a".to_owned()];
        let planned = plan(&set(vec![with_plugin])).unwrap();
        assert!(planned.roots.is_empty());
        let [line] = &planned.lines[..] else { panic!("{:?}", planned.lines) };
        assert_eq!((line.definition.as_str(), line.flags), ("python3:module_name=a", options.flags));
        assert_eq!(line.rules.as_ref().unwrap().include.options, [options]);
    }

    #[test]
    fn a_job_has_one_rule_for_what_changed() {
        let with = |letters: Option<&str>| {
            let options = Options { accurate: letters.map(str::to_owned), ..Options::default() };
            Include { plugins: vec!["python3:module_name=a".to_owned()], ..include(&[], options) }
        };
        let planned = plan(&set(vec![with(Some("mc")), with(Some("mc"))])).unwrap();
        assert_eq!(planned.accurate, Some("mc".parse().unwrap()));
        assert_eq!(plan(&set(vec![with(None)])).unwrap().accurate, None);
        let error = plan(&set(vec![with(Some("mc")), with(None)])).unwrap_err().to_string();
        assert!(error.contains("differ in Accurate"), "{error}");
        // What is no plugin's does not matter.
        let files = include(&["/a"], Options { accurate: Some("s".into()), ..Options::default() });
        assert_eq!(plan(&set(vec![files, with(Some("mc"))])).unwrap().accurate, Some("mc".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let options = Options { fs_types: vec!["ext9".to_owned()], ..Options::default() };
        let error = plan(&set(vec![include(&["/a"], options)])).unwrap_err().to_string();
        assert_eq!(
            error,
            "the FileSet \"n\" cannot be used: Fs Type = ext9 is no kind of file system that is known here"
        );
        let many = (0..65).map(|_| include(&["/a"], Options::default())).collect();
        assert!(plan(&set(many)).unwrap_err().to_string().contains("more than 64 Includes"));
    }

    #[test]
    fn excluded_files_hold_for_every_include() {
        let mut set = set(vec![include(&["/a"], Options::default())]);
        set.excludes = vec![Exclude { files: vec![b"/a/tmp".to_vec()] }];
        let planned = plan(&set).unwrap();
        assert!(planned.selector.select(b"/a/tmp", true, 1).is_err());
    }
}
