//! rustic as a third writer beside restic and us: in a repository of ours and in one that restic made, with prunes by everybody.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::{Place, Restic, append, assert_same, below, count, noise, succeed};

/// Who saves.
#[derive(Clone, Copy, Debug)]
enum Writer {
    Us,
    Restic(Restic),
    Rustic,
}

impl Writer {
    const ALL: [Self; 4] = [Self::Us, Self::Restic(Restic::Old), Self::Rustic, Self::Restic(Restic::Next)];

    fn back_up(self, place: &Place, tree: &Path) {
        match self {
            Self::Us => drop(place.back_up([tree])),
            Self::Restic(restic) => drop(place.restic(restic, ["backup".as_ref(), tree.as_os_str()])),
            Self::Rustic => drop(place.rustic(["backup".as_ref(), tree.as_os_str()])),
        }
    }
}

/// What every one of the three saves and restores alike: rustic changes device files.
fn plant(tree: &Path) {
    fs::create_dir_all(tree.join("folder/empty")).unwrap();
    for number in 0..20 {
        fs::write(tree.join(format!("folder/file {number}")), noise(number, 1000 * number as usize)).unwrap();
    }
    fs::write(tree.join("long"), noise(99, 12 << 20)).unwrap();
    fs::write(tree.join("text"), "A line of text that says little.\n".repeat(5000)).unwrap();
    fs::write(tree.join("Grüße <&> \"世界\"\n"), b"a name to escape").unwrap();
    symlink("folder/file 3", tree.join("link")).unwrap();
}

/// Both restics, rustic and we find nothing wrong in any byte.
fn assert_checked(place: &Place) {
    for restic in Restic::BOTH {
        place.restic(restic, ["check", "--read-data"]);
    }
    place.rustic(["check"]);
    place.ours(["check", "--read-data"]);
}

/// Everybody restores the snapshot, and the tree in it equals the copy.
fn assert_everybody_restores(place: &Place, snapshot: &str, tree: &Path, copy: &Path) {
    for reader in Writer::ALL {
        let target = place.path("restored");
        let arguments = ["restore".as_ref(), snapshot.as_ref(), "--target".as_ref(), target.as_os_str()];
        match reader {
            Writer::Us => drop(place.ours(arguments)),
            Writer::Restic(restic) => drop(place.restic(restic, arguments)),
            Writer::Rustic => drop(place.rustic(["restore".as_ref(), snapshot.as_ref(), target.as_os_str()])),
        }
        assert_same(copy, &below(&target, tree), &[]);
        fs::remove_dir_all(&target).unwrap();
    }
}

/// Everybody saves the folder above the tree in turn, twice; the tree as it was at each snapshot, in order.
///
/// Above, because rustic keeps neither times nor modes of the folder that it is told to save, nor of those above it.
fn turns(place: &Place, tree: &Path) -> Vec<PathBuf> {
    plant(tree);
    let mut copies = Vec::new();
    for round in 0..2 {
        for writer in Writer::ALL {
            append(&tree.join("text"), format!("round {round} by {writer:?}\n").as_bytes());
            fs::write(tree.join(format!("folder/{round} {writer:?}")), noise(copies.len() as u64 + 500, 300_000))
                .unwrap();
            writer.back_up(place, tree.parent().unwrap());
            let copy = place.path(&format!("copy {}", copies.len()));
            succeed(Command::new("cp").arg("-a").arg(tree).arg(&copy));
            copies.push(copy);
        }
    }
    copies
}

fn assert_a_month(place: &Place) {
    let tree = place.path("saved/tree");
    let copies = turns(place, &tree);
    assert_eq!(place.snapshots().len(), copies.len());
    assert_checked(place);
    place.ours(["forget", "--keep-last", "4", "--group-by", "", "--prune", "--max-unused", "0"]);
    assert_checked(place);
    let snapshots = place.snapshots();
    assert_eq!(snapshots.len(), 4);
    for (snapshot, copy) in snapshots.iter().zip(&copies[copies.len() - 4..]) {
        assert_everybody_restores(place, snapshot["id"].as_str().unwrap(), &tree, copy);
    }
}

#[test]
fn restic_rustic_and_we_write_in_turn_into_a_repository_of_ours() {
    assert_a_month(&Place::with_repository());
}

#[test]
fn restic_rustic_and_we_write_in_turn_into_a_repository_of_restics_and_share_what_is_in_it() {
    for restic in Restic::BOTH {
        let place = Place::new();
        place.restic(restic, ["init", "--repository-version", "2"]);
        assert_a_month(&place);
        // Twelve megabytes that do not compress, of which nobody stored a second copy.
        assert!(place.stored() < 20 << 20, "{} bytes", place.stored());
    }
}

#[test]
fn what_rustic_has_marked_for_deletion_is_not_used_again_and_our_prune_takes_it_away() {
    for restic in [None, Some(Restic::Next)] {
        let place = match restic {
            None => Place::with_repository(),
            Some(restic) => {
                let place = Place::new();
                place.restic(restic, ["init", "--repository-version", "2"]);
                place
            }
        };
        let tree = place.path("tree");
        plant(&tree);
        place.back_up([&tree]);
        let kept = place.path("kept");
        fs::rename(tree.join("long"), &kept).unwrap();
        place.rustic(["backup".as_ref(), tree.as_os_str()]);
        place.ours(["forget", "--keep-last", "1", "--group-by", ""]);
        place.rustic(["prune"]);
        // The marked packs are still there; what lies in them only is stored anew.
        assert!(place.stored() > 12 << 20, "{} bytes", place.stored());
        fs::rename(&kept, tree.join("long")).unwrap();
        let again = place.back_up([&tree]);
        assert!(count(&again, "data_added") > 12 << 20, "{again}");
        assert_checked(&place);
        let before = place.stored();
        place.ours(["prune", "--max-unused", "0"]);
        assert!(place.stored() + (11 << 20) < before, "{before} bytes became {}", place.stored());
        assert_checked(&place);
        assert_everybody_restores(&place, "latest", &tree, &tree);

        // Once more; and what is in use again by then counts, whoever looks first.
        fs::rename(tree.join("long"), &kept).unwrap();
        Writer::Restic(Restic::Next).back_up(&place, &tree);
        place.ours(["forget", "--keep-last", "1", "--group-by", ""]);
        place.rustic(["prune"]);
        fs::rename(&kept, tree.join("long")).unwrap();
        Writer::Restic(Restic::Old).back_up(&place, &tree);
        place.rustic(["prune"]);
        assert_checked(&place);
        place.ours(["prune", "--max-unused", "0"]);
        place.rustic(["prune-at-once"]);
        assert_checked(&place);
        assert_everybody_restores(&place, "latest", &tree, &tree);
    }
}
