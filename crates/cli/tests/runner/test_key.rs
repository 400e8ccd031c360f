use crate::common::{PASSWORD, World, fails_with, keys, stderr, stdout};

fn list(world: &World) -> Vec<serde_json::Value> {
    let assert = world.run(["key", "list", "--json"]).success();
    serde_json::from_str(&stdout(assert.get_output())).unwrap()
}

#[test]
fn keys_are_listed_added_and_removed_and_the_one_in_use_stays() {
    let world = World::with_snapshot();
    world.write("second", "another one\n");
    let added = world.objects(["key", "add", "--new-password-file", "second", "--host", "box", "--user", "ann"]);
    let id = added[0]["key_id"].as_str().unwrap().to_owned();
    let found = list(&world);
    assert_eq!(found.len(), 2);
    let second = found.iter().find(|key| key["id"] == id.as_str()).unwrap();
    assert_eq!((&second["userName"], &second["hostName"]), (&"ann".into(), &"box".into()));
    assert_eq!(second["current"], false);
    // restic opens it, and lists the same fields.
    let mut restic = world.restic(["key", "list", "--json"]);
    let assert = restic.env("RESTIC_PASSWORD", "another one").assert().success();
    let theirs: Vec<serde_json::Value> = serde_json::from_str(&stdout(assert.get_output())).unwrap();
    assert_eq!(keys(&theirs[0]), keys(second));
    let theirs = theirs.iter().find(|key| key["hostName"] == "box").unwrap();
    assert_eq!(theirs["created"], second["created"]);

    let current = found.iter().find(|key| key["current"] == true).unwrap()["id"].as_str().unwrap().to_owned();
    fails_with(world.command(["key", "remove", &current]), 1, &["was opened with"]);
    fails_with(world.command(["key", "remove", "0123456789"]), 1, &["no key", "0123456789"]);
    world.run(["key", "remove", &id[..12]]).success();
    assert_eq!(list(&world).len(), 1);
    let lines = world.lines(["key", "list"]);
    assert!(lines.iter().any(|line| line.trim_start().starts_with(&format!("*{}", &current[..8]))), "{lines:?}");
}

#[test]
fn the_password_is_changed() {
    let world = World::with_snapshot();
    world.run(["key", "passwd", "--new-password-command", "echo battery\\ staple"]).success();
    let mut old = world.command(["snapshots"]);
    old.env("BACKSTAY_PASSWORD", PASSWORD);
    fails_with(old, 12, &["wrong password"]);
    let mut new = world.command(["snapshots"]);
    new.env("BACKSTAY_PASSWORD", "battery staple").assert().success();
    world.restic(["check"]).env("RESTIC_PASSWORD", "battery staple").assert().success();
}

#[test]
fn a_new_password_that_is_none_is_refused() {
    let world = World::new();
    world.write("empty", "\n");
    fails_with(world.command(["key", "add", "--new-password-file", "empty"]), 1, &["empty is empty"]);
    fails_with(world.command(["key", "add", "--new-password-file", "missing"]), 1, &["missing", "No such file"]);
    fails_with(world.command(["key", "add", "--no-lock", "--new-password-file", "empty"]), 1, &["--no-lock"]);
    assert_eq!(list(&world).len(), 1);
}

#[test]
fn a_damaged_key_file_is_named_behind_the_others() {
    let world = World::new();
    let name = "00".repeat(32);
    world.write(&format!("repository/keys/{name}"), "{}");
    let assert = world.run(["key", "list"]).code(1);
    assert!(stdout(assert.get_output()).contains('*'));
    assert!(stderr(assert.get_output()).contains(&name));
}
