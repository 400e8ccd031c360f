//! Changing the tags of snapshots. A changed snapshot is a new file: it remembers the id that it had first.

use backstay_core::Id;

use crate::error::Error;
use crate::maintenance::{MaintenanceProgress, replace_snapshot};
use crate::repository::Repository;
use crate::snapshot::{PARTIAL_TAG, Snapshot};

/// What happens to the tags of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagChange {
    /// These instead of all that are there.
    pub set: Option<Vec<String>>,
    /// These too.
    pub add: Vec<String>,
    /// No longer these.
    pub remove: Vec<String>,
}

impl TagChange {
    /// Whether the change can be made at all.
    ///
    /// # Errors
    /// Nothing to do, a contradiction, or a tag that says what a snapshot is.
    pub fn validate(&self) -> Result<(), Error> {
        let other = |text: &str| Err(Error::Other(text.to_owned()));
        match &self.set {
            Some(_) if !self.add.is_empty() || !self.remove.is_empty() => {
                return other("tags are either set, or added and removed: not both");
            }
            None if self.add.is_empty() && self.remove.is_empty() => {
                return other("nothing to do: name tags to set, to add or to remove");
            }
            _ => {}
        }
        if self.set.iter().flatten().chain(&self.add).chain(&self.remove).any(|tag| tag == PARTIAL_TAG) {
            return Err(Error::Other(format!(
                "the tag {PARTIAL_TAG} says that a snapshot is not whole: it is neither given nor taken away"
            )));
        }
        Ok(())
    }

    /// Changes the tags; whether that made a difference.
    pub fn apply(&self, tags: &mut Vec<String>) -> bool {
        let before = tags.clone();
        if let Some(set) = &self.set {
            tags.retain(|tag| tag == PARTIAL_TAG);
            for tag in set {
                if !tags.contains(tag) {
                    tags.push(tag.clone());
                }
            }
        }
        for tag in &self.add {
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
        tags.retain(|tag| !self.remove.contains(tag));
        *tags != before
    }
}

/// Changes the tags of these snapshots and tells `changed` the old and the new id of each that became another. Needs an
/// exclusive lock. Returns how many there were.
///
/// # Errors
/// [`TagChange::validate`], [`Error::ReadOnlyVersion`], [`Error::Store`]: what was told is done.
pub fn change_tags(
    repository: &Repository,
    snapshots: Vec<(Id, Snapshot)>,
    change: &TagChange,
    progress: &dyn MaintenanceProgress,
    changed: &mut dyn FnMut(&Id, &Id),
) -> Result<u64, Error> {
    change.validate()?;
    if repository.version() < 2 {
        return Err(Error::ReadOnlyVersion);
    }
    progress.stage("snapshots", snapshots.len() as u64);
    let mut count = 0;
    for (old, mut snapshot) in snapshots {
        progress.go_on()?;
        if change.apply(&mut snapshot.tags) {
            snapshot.original.get_or_insert(old);
            let new = replace_snapshot(repository, &old, &snapshot, progress)?;
            changed(&old, &new);
            count += 1;
        }
        progress.advanced(1);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn tags_are_set_added_and_removed() {
        let change = |set: Option<&[&str]>, add: &[&str], remove: &[&str], before: &[&str]| {
            let change = TagChange { set: set.map(words), add: words(add), remove: words(remove) };
            let mut tags = words(before);
            let changed = change.apply(&mut tags);
            (changed, tags)
        };
        assert_eq!(change(Some(&["b", "a", "b"]), &[], &[], &["x"]), (true, words(&["b", "a"])));
        assert_eq!(change(Some(&[]), &[], &[], &["x"]), (true, vec![]));
        assert_eq!(change(Some(&["x"]), &[], &[], &["x"]), (false, words(&["x"])));
        assert_eq!(change(None, &["a", "x"], &["y"], &["x", "y"]), (true, words(&["x", "a"])));
        assert_eq!(change(None, &["x"], &["y"], &["x"]), (false, words(&["x"])));
        // What says that a snapshot is not whole stays, whatever else is set.
        assert_eq!(change(Some(&["a"]), &[], &[], &["x", PARTIAL_TAG]), (true, words(&[PARTIAL_TAG, "a"])));
    }

    #[test]
    fn a_change_that_makes_no_sense_is_refused() {
        let some = words(&["a"]);
        assert!(TagChange::default().validate().is_err());
        assert!(TagChange { set: Some(some.clone()), add: some.clone(), remove: vec![] }.validate().is_err());
        assert!(TagChange { remove: words(&[PARTIAL_TAG]), ..TagChange::default() }.validate().is_err());
        assert!(TagChange { set: Some(vec![]), ..TagChange::default() }.validate().is_ok());
        assert!(TagChange { add: some, ..TagChange::default() }.validate().is_ok());
    }
}
