//! A disk that is full: while a backup writes, and while a restore writes.
//!
//! Each test runs a short shell script in a mount namespace of its own, where a small tmpfs can be mounted and goes away with it.

use std::fs;
use std::process::Output;

use crate::place::{BACKSTAY, Place, Restic, noise, told};

/// Runs a script with a mount namespace of its own; `$1` is an empty folder to mount on, `$2` is `backstay`, `$3` the tree.
fn run_apart(place: &Place, script: &str) -> Output {
    fs::create_dir(place.path("mount")).unwrap();
    let mut command = place.command("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--", "/bin/sh", "-euc", script, "sh"]);
    command.arg(place.path("mount")).arg(BACKSTAY).arg(place.path("tree"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", told(&command, &output));
    output
}

fn plant(place: &Place) {
    let tree = place.path("tree");
    fs::create_dir(&tree).unwrap();
    for index in 0..64 {
        fs::write(tree.join(format!("noise {index}")), noise(index, 1 << 20)).unwrap();
    }
}

/// The lines of standard error, without the script's own.
fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_backup_on_a_full_disk_fails_saves_nothing_and_works_again_once_there_is_room() {
    let place = Place::new();
    plant(&place);
    let output = run_apart(
        &place,
        r#"
        mount -t tmpfs -o size=32m none "$1"
        export RESTIC_REPOSITORY="$1/repository"
        "$2" -q init
        head -c 1000 "$3/noise 1" > "$1/small"
        "$2" -q backup "$1/small"
        status=0; "$2" -q backup "$3" || status=$?
        echo "status $status"
        "$2" --json snapshots
        mount -o remount,size=200m "$1"
        "$2" -q backup "$3"
        "$2" -q check --read-data
        cp -r "$1/repository" "$1/../repository"
        "#,
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("status 1\n"), "{said}\n{}", complaint(&output));
    let listed = said.lines().filter(|line| line.starts_with('{')).count();
    assert_eq!(listed, 1, "only the snapshot from before: {said}");
    assert!(complaint(&output).to_lowercase().contains("no space left"), "{}", complaint(&output));
    // The repository is a sound one to restic too, locks included.
    for restic in Restic::BOTH {
        place.restic(restic, ["check", "--read-data"]);
    }
}

#[test]
fn a_restore_to_a_full_disk_fails_with_a_line_that_says_so() {
    let place = Place::with_repository();
    plant(&place);
    place.back_up([&place.path("tree")]);
    let output = run_apart(
        &place,
        r#"
        mount -t tmpfs -o size=16m none "$1"
        status=0; "$2" -q restore latest --target "$1/restored" || status=$?
        echo "status $status"
        "#,
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("status 1\n") || said.contains("status 3\n"), "{said}\n{}", complaint(&output));
    assert!(complaint(&output).to_lowercase().contains("no space left"), "{}", complaint(&output));
    // No lock is left behind: restic may work alone on the repository at once.
    place.restic(Restic::Next, ["check"]);
}
