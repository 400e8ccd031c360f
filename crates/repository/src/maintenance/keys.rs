//! Keys: who may open the repository (reference section 4). Each key file wraps the same repository key in a password.

use backstay_core::{Id, ObjectKind, StoreErrorKind, Time};

use crate::error::Error;
use crate::keyfile::{self, KdfParams, KeyOrigin};
use crate::lock::{host_name, user_name};
use crate::maintenance::objects::find_object;
use crate::repository::{MAX_KEYS, Repository};
use crate::snapshot::now;

/// A key file of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its id.
    pub id: Id,
    /// Whether the repository was opened with it.
    pub current: bool,
    /// Who made it; empty where the file does not say.
    pub username: String,
    /// On which host; empty where the file does not say.
    pub hostname: String,
    /// When; none where the file does not say.
    pub created: Option<Time>,
}

/// The keys of a repository, as far as they can be read.
#[derive(Debug, Default)]
pub struct Keys {
    /// Those that can be read, the oldest first.
    pub keys: Vec<Key>,
    /// Why the others cannot.
    pub damaged: Vec<Error>,
}

/// How a key is made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// How much work it is to try the password.
    pub kdf: KdfParams,
    /// The user's name in the key file; none: the one who runs this.
    pub username: Option<String>,
    /// The host's name in the key file; none: this one's.
    pub hostname: Option<String>,
}

/// A key that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedKey {
    /// Its id.
    pub id: Id,
    /// Whether there are now more keys than programs try with a password: it may need `--key-hint` to be found.
    pub needs_hint: bool,
}

/// All keys, the oldest first.
///
/// # Errors
/// [`Error::Store`]. A key file that cannot be read is in the list of the damaged.
pub fn list_keys(repository: &Repository) -> Result<Keys, Error> {
    let mut found = Keys::default();
    for (id, _) in repository.store().list(ObjectKind::Key)? {
        let file = match repository.store().get(ObjectKind::Key, &id, None) {
            Ok(file) => file,
            // Somebody removed it between the two calls.
            Err(error) if error.kind == StoreErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let origin = if Id::of(&file) == id {
            keyfile::origin(&file)
        } else {
            Err("its contents do not match its name".to_owned())
        };
        match origin {
            Ok((created, username, hostname)) => {
                found.keys.push(Key { id, current: id == repository.key_id(), username, hostname, created });
            }
            Err(reason) => found.damaged.push(Error::damaged(ObjectKind::Key, &id, reason)),
        }
    }
    found.keys.sort_by_key(|key| (key.created, key.id));
    Ok(found)
}

/// Adds a key with this password and makes sure that it opens the repository. Needs a shared lock.
///
/// # Errors
/// [`Error::ReadOnlyVersion`], an empty password, [`Error::Store`].
pub fn add_key(repository: &Repository, password: &[u8], options: &NewKey) -> Result<AddedKey, Error> {
    if repository.version() < 2 {
        return Err(Error::ReadOnlyVersion);
    }
    if password.is_empty() {
        return Err(Error::Other("an empty password protects nothing: give another one".to_owned()));
    }
    let origin = KeyOrigin {
        created: now(),
        username: options.username.clone().unwrap_or_else(user_name),
        hostname: options.hostname.clone().unwrap_or_else(host_name),
    };
    let file = keyfile::wrap(repository.key(), password, options.kdf, &origin)?;
    let id = Id::of(&file);
    repository.store().put(ObjectKind::Key, &id, &file)?;
    // Before anybody relies on it.
    let stored = repository.store().get(ObjectKind::Key, &id, None)?;
    let opened = keyfile::open(&stored, password).map_err(|error| Error::damaged(ObjectKind::Key, &id, error))?;
    if opened.parts() != repository.key().parts() {
        return Err(Error::damaged(ObjectKind::Key, &id, "it does not hold the repository's key"));
    }
    let count = repository.store().list(ObjectKind::Key)?.len();
    Ok(AddedKey { id, needs_hint: count > MAX_KEYS })
}

/// Removes the key whose id begins with `prefix`. Needs an exclusive lock.
///
/// # Errors
/// No such key, several of them, or the one that the repository was opened with; [`Error::Store`].
pub fn remove_key(repository: &Repository, prefix: &str) -> Result<Id, Error> {
    if repository.version() < 2 {
        return Err(Error::ReadOnlyVersion);
    }
    let id = find_object(repository, ObjectKind::Key, prefix)?;
    if id == repository.key_id() {
        return Err(Error::Other(format!(
            "key {} is the one that the repository was opened with: open it with another password to remove this one",
            id.short()
        )));
    }
    repository.store().delete(ObjectKind::Key, &id)?;
    Ok(id)
}

/// Puts a key with a new password in the place of the one that the repository was opened with. Needs an exclusive lock.
/// When it fails after the new key was made, both passwords open the repository.
///
/// # Errors
/// As [`add_key`].
pub fn change_password(repository: &Repository, password: &[u8], options: &NewKey) -> Result<AddedKey, Error> {
    let added = add_key(repository, password, options)?;
    repository.store().delete(ObjectKind::Key, &repository.key_id())?;
    Ok(AddedKey { needs_hint: repository.store().list(ObjectKind::Key)?.len() > MAX_KEYS, ..added })
}
