use backstay_core::{Id, ObjectKind, Store};
use backstay_repository::keyfile::{self, KeyOrigin};
use backstay_repository::maintenance::keys::{NewKey, add_key, change_password, list_keys, remove_key};
use backstay_repository::{Error, OpenOptions, Repository};

use crate::support::{CHEAP, PASSWORD, Place, killed_everywhere};

fn cheap() -> NewKey {
    NewKey { kdf: CHEAP, ..NewKey::default() }
}

#[test]
fn a_second_key_opens_the_same_repository_and_can_be_removed() {
    let (place, _) = Place::with_snapshots();
    let options = NewKey { username: Some("ann".to_owned()), hostname: Some("box".to_owned()), ..cheap() };
    let added = add_key(&place.repository, b"another", &options).unwrap();
    assert!(!added.needs_hint);
    let other = Repository::open(place.store.clone(), b"another").unwrap();
    assert_eq!(other.key_id(), added.id);
    assert_eq!(other.snapshots().unwrap().len(), 3);
    let found = list_keys(&place.repository).unwrap();
    assert!(found.damaged.is_empty());
    let listed = found.keys.iter().find(|key| key.id == added.id).unwrap();
    assert_eq!((&*listed.username, &*listed.hostname, listed.current), ("ann", "box", false));
    assert!(listed.created.is_some());
    assert_eq!(found.keys.iter().filter(|key| key.current).count(), 1);
    // Nobody saws off the branch he sits on.
    let own = place.repository.key_id().to_hex();
    assert!(remove_key(&place.repository, &own).unwrap_err().to_string().contains("was opened with"));
    assert_eq!(remove_key(&other, &own[..20]).unwrap(), place.repository.key_id());
    assert!(matches!(Repository::open(place.store.clone(), PASSWORD), Err(Error::WrongPassword)));
}

#[test]
fn what_is_no_key_or_several_is_refused() {
    let place = Place::new();
    for number in 0..40_u8 {
        add_key(&place.repository, &[b'k', number], &cheap()).unwrap();
    }
    assert!(remove_key(&place.repository, "").unwrap_err().to_string().contains("no key"));
    assert!(remove_key(&place.repository, "xyz").unwrap_err().to_string().contains("no key"));
    assert!(remove_key(&place.repository, &Id::default().to_hex()).unwrap_err().to_string().contains("no key"));
    // Of 41 ids, two begin with the same digit.
    let ids = place.ids(ObjectKind::Key);
    let twice = ids.windows(2).find(|pair| pair[0].to_hex()[..1] == pair[1].to_hex()[..1]).unwrap();
    assert!(matches!(remove_key(&place.repository, &twice[0].to_hex()[..1]), Err(Error::Ambiguous(_))));
    assert!(add_key(&place.repository, b"", &cheap()).unwrap_err().to_string().contains("empty"));
    assert_eq!(place.ids(ObjectKind::Key).len(), 41);
}

#[test]
fn beyond_twenty_keys_a_hint_is_needed_and_works() {
    let place = Place::new();
    let mut last = None;
    for number in 1..=40_u8 {
        let added = add_key(&place.repository, &[b'k', number], &cheap()).unwrap();
        assert_eq!(added.needs_hint, number >= 20, "{number}");
        last = Some((added.id, [b'k', number]));
    }
    // The key that is tried last of all.
    let (mut id, mut password) = last.unwrap();
    for number in 1..=40_u8 {
        let hint = |id: &Id| OpenOptions { key_hint: Some(id.to_hex()), ..OpenOptions::default() };
        for found in place.ids(ObjectKind::Key) {
            if let Ok(opened) = Repository::open_with(place.store.clone(), &[b'k', number], &hint(&found))
                && opened.key_id() == found
                && found > id
            {
                (id, password) = (found, [b'k', number]);
            }
        }
    }
    assert!(Repository::open(place.store.clone(), &password).unwrap_err().to_string().contains("key hint"));
    let options = OpenOptions { key_hint: Some(id.short()), ..OpenOptions::default() };
    assert_eq!(Repository::open_with(place.store.clone(), &password, &options).unwrap().key_id(), id);
}

#[test]
fn a_damaged_key_file_hides_no_other() {
    let place = Place::new();
    let broken = Id::of(b"broken");
    place.store.put(ObjectKind::Key, &broken, b"not this").unwrap();
    let text = Id::of(b"no key");
    place.store.put(ObjectKind::Key, &text, b"no key").unwrap();
    let found = list_keys(&place.repository).unwrap();
    assert_eq!(found.keys.len(), 1);
    assert_eq!(found.damaged.len(), 2);
    assert!(found.damaged.iter().any(|error| error.to_string().contains(&broken.to_hex())));
    // A key that says nothing about its making, as rustic writes it.
    let file = keyfile::wrap(place.repository.key(), b"r", CHEAP, &KeyOrigin::default()).unwrap();
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&file).unwrap();
    for name in ["created", "username", "hostname"] {
        json.remove(name);
    }
    let file = serde_json::to_vec(&json).unwrap();
    place.store.put(ObjectKind::Key, &Id::of(&file), &file).unwrap();
    let found = list_keys(&place.repository).unwrap();
    assert!(found.keys.iter().any(|key| key.created.is_none() && key.hostname.is_empty()));
}

#[test]
fn a_change_of_the_password_that_is_killed_leaves_one_that_works() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    let changes = killed_everywhere(
        &place,
        |repository| change_password(repository, b"another", &cheap()).map(drop),
        |left, _| assert_eq!(left.contents(), before),
    );
    assert_eq!(changes, 2, "a new key file, and the old one deleted");
    let done = place.copy();
    change_password(&done.repository, b"another", &cheap()).unwrap();
    assert!(matches!(Repository::open(done.store.clone(), PASSWORD), Err(Error::WrongPassword)));
    assert_eq!(Repository::open(done.store.clone(), b"another").unwrap().snapshots().unwrap().len(), 3);
}
