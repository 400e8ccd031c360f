use crate::common::{World, fails_with, stderr, stdout};

fn cat(world: &World, arguments: &[&str]) -> Vec<u8> {
    let mut command = world.command(["cat"]);
    command.args(arguments);
    command.assert().success().get_output().stdout.clone()
}

fn names(world: &World, folder: &str) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(world.path("repository").join(folder)).unwrap() {
        names.push(entry.unwrap().file_name().into_string().unwrap());
    }
    names
}

#[test]
fn objects_are_printed_as_restic_prints_them() {
    let world = World::with_snapshot();
    world.restic(["backup", "tree"]).assert().success();
    let theirs = |arguments: &[&str]| {
        let mut command = world.restic(["cat"]);
        command.args(arguments);
        command.assert().success().get_output().stdout.clone()
    };
    let snapshot = world.objects(["snapshots"]).pop().unwrap()["id"].as_str().unwrap().to_owned();
    let key = names(&world, "keys").pop().unwrap();
    for arguments in [&["snapshot", &snapshot][..], &["key", &key]] {
        let (ours, theirs) = (cat(&world, arguments), theirs(arguments));
        let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(value(&ours), value(&theirs), "{arguments:?}");
    }
    // restic prints the part "r" with the bits cleared that Poly1305 clears anyway.
    let (ours, theirs_key) = (cat(&world, &["masterkey"]), theirs(&["masterkey"]));
    let lines = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8(bytes.to_vec())
            .unwrap()
            .lines()
            .filter(|line| !line.contains("\"r\""))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(lines(&ours), lines(&theirs_key));
    assert_eq!(lines(&ours).len(), 6);
    for index in names(&world, "index") {
        assert_eq!(cat(&world, &["index", &index[..20]]), cat(&world, &["index", &index]));
        assert!(cat(&world, &["index", &index]).starts_with(b"{\"packs\":["));
    }
    let config: serde_json::Value = serde_json::from_slice(&cat(&world, &["config"])).unwrap();
    assert_eq!(config["version"], 2);
    let tree = cat(&world, &["tree", "latest"]);
    assert!(tree.starts_with(b"{\"nodes\":[") && tree.ends_with(b"]}\n"));
    let below = cat(&world, &["tree", "latest:/tree"]);
    let nodes: serde_json::Value = serde_json::from_slice(&below).unwrap();
    let blob = nodes["nodes"][1]["content"][0].as_str().unwrap();
    assert_eq!(cat(&world, &["blob", blob]), b"hello\n");
    assert_eq!(cat(&world, &["blob", &blob[..16]]), b"hello\n");
    assert_eq!(cat(&world, &["blob", blob]), theirs(&["blob", blob]));
}

#[test]
fn a_pack_is_printed_as_it_is_even_when_it_is_damaged() {
    let world = World::with_snapshot();
    let folder =
        names(&world, "data").into_iter().find(|name| !names(&world, &format!("data/{name}")).is_empty()).unwrap();
    let pack = names(&world, &format!("data/{folder}")).pop().unwrap();
    let path = world.path(format!("repository/data/{folder}/{pack}"));
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(cat(&world, &["pack", &pack[..30]]), bytes);
    bytes[3] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let assert = world.run(["cat", "pack", &pack]).success();
    assert_eq!(assert.get_output().stdout, bytes);
    assert!(stderr(assert.get_output()).contains("damaged"));
}

#[test]
fn a_file_of_a_snapshot_is_printed() {
    let world = World::with_snapshot();
    let assert = world.run(["cat", &format!("latest:{}", world.shown("tree/hello.txt"))]).success();
    assert_eq!(stdout(assert.get_output()), "hello\n");
    let assert = world.run(["cat", "latest", &world.shown("tree/hello.txt")]).success();
    assert_eq!(stdout(assert.get_output()), "hello\n");
}

#[test]
fn what_is_not_there_is_refused() {
    let world = World::with_snapshot();
    fails_with(world.command(["cat", "config", "x"]), 1, &["config", "no id"]);
    fails_with(world.command(["cat", "pack"]), 1, &["which pack"]);
    fails_with(world.command(["cat", "tree"]), 1, &["SNAPSHOT"]);
    fails_with(world.command(["cat", "blob", "0000000000"]), 1, &["no blob", "0000000000"]);
    fails_with(world.command(["cat", "pack", "xyz"]), 1, &["no pack", "xyz"]);
    fails_with(world.command(["cat", "snapshot", "0000000000"]), 1, &["no snapshot"]);
    fails_with(world.command(["cat", "latest"]), 1, &["SNAPSHOT:PATH"]);
    fails_with(world.command(["cat", &format!("latest:{}", world.shown("tree"))]), 1, &["folder", "cat tree"]);
    fails_with(world.command(["cat", "latest:/missing"]), 1, &["/missing"]);
}
