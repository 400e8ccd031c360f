//! The names of objects in restic's layout (reference section 2), relative to the repository, with `/` between folders.

use backstay_core::{Id, ObjectKind};

/// An object's path.
#[must_use]
pub(crate) fn path(kind: ObjectKind, id: &Id) -> String {
    match kind {
        ObjectKind::Config => kind.directory().to_owned(),
        ObjectKind::Pack => {
            let id = id.to_hex();
            format!("{}/{}/{id}", kind.directory(), &id[..2])
        }
        _ => format!("{}/{}", kind.directory(), id.to_hex()),
    }
}

/// The id that a file's name stands for; none for names that are not ours (objects have lower-case names only).
#[must_use]
pub(crate) fn id(name: &str) -> Option<Id> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { None } else { name.parse().ok() }
}

/// The id of the object of this kind at a path relative to the kind's folder; none for whatever lies elsewhere.
#[must_use]
pub(crate) fn listed(kind: ObjectKind, path: &str) -> Option<Id> {
    match kind {
        ObjectKind::Config => None,
        ObjectKind::Pack => {
            let (folder, name) = path.split_once('/')?;
            id(name).filter(|_| folder.len() == 2 && name.starts_with(folder))
        }
        _ => id(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_in_their_places_are_objects() {
        let one = Id::of(b"one");
        let hex = one.to_hex();
        for kind in [ObjectKind::Key, ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack] {
            let whole = path(kind, &one);
            let inner = whole.strip_prefix(kind.directory()).unwrap().strip_prefix('/').unwrap();
            assert_eq!(listed(kind, inner), Some(one));
        }
        assert_eq!(listed(ObjectKind::Pack, &hex), None);
        assert_eq!(listed(ObjectKind::Pack, &format!("zz/{hex}")), None);
        assert_eq!(listed(ObjectKind::Key, &hex.to_uppercase()), None);
        assert_eq!(listed(ObjectKind::Key, &format!("{hex}-tmp-1")), None);
        assert_eq!(listed(ObjectKind::Key, &format!("x/{hex}")), None);
    }
}
