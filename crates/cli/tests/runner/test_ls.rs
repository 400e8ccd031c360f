use crate::common::{World, fails_with, keys, parse_lines, stdout};

#[test]
fn everything_is_listed_and_a_folder_before_what_is_in_it() {
    let world = World::with_snapshot();
    let lines = world.lines(["ls", "latest"]);
    let place = |name: &str| lines.iter().position(|line| *line == world.shown(name)).unwrap();
    assert!(place("tree") < place("tree/docs") && place("tree/docs") < place("tree/docs/deep/note"));
    assert!(lines.contains(&world.shown("tree/link")));
}

#[test]
fn a_folder_shows_itself_and_what_lies_directly_in_it() {
    let world = World::with_snapshot();
    let docs = world.shown("tree/docs");
    assert_eq!(world.lines(["ls", "latest", &docs]), [docs.clone(), format!("{docs}/deep"), format!("{docs}/readme")]);
    assert!(world.lines(["ls", "latest", &docs, "--recursive"]).contains(&format!("{docs}/deep/note")));
}

#[test]
fn a_path_after_the_colon_is_the_root() {
    let world = World::with_snapshot();
    let place = format!("latest:{}", world.shown("tree/docs"));
    assert_eq!(world.lines(["ls", &place]), ["/deep", "/deep/note", "/readme"]);
}

#[test]
fn long_lines_show_mode_size_time_and_target() {
    let world = World::with_snapshot();
    let text = world.lines(["ls", "-l", "latest"]).join("\n");
    assert!(
        text.lines().any(|line| line.starts_with("-rw") && line.contains(" 6 ") && line.ends_with("hello.txt")),
        "{text}"
    );
    assert!(text.lines().any(|line| line.starts_with("Lrwx") && line.ends_with("link -> hello.txt")), "{text}");
}

#[test]
fn objects_have_every_field_that_restic_prints() {
    let world = World::with_snapshot();
    let ours = world.objects(["ls", "latest"]);
    let restic = world.restic(["ls", "latest", "--json"]).assert().success();
    let theirs = parse_lines(&stdout(restic.get_output()));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let missing: Vec<String> = keys(theirs).difference(&keys(ours)).cloned().collect();
        assert!(missing.is_empty(), "{missing:?} in {ours}");
        for field in ["struct_type", "name", "type", "path", "mode", "size"] {
            assert_eq!(ours.get(field), theirs.get(field), "{field}");
        }
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let world = World::with_snapshot();
    fails_with(world.command(["-q", "ls", "latest", "/missing"]), 1, &["/missing"]);
    fails_with(world.command(["-q", "ls", "latest", "relative"]), 1, &["relative", "absolute"]);
}

#[test]
fn a_name_cannot_break_the_line() {
    let world = World::new();
    world.write("tree/two\nlines", "");
    world.backup(["tree"]);
    let lines = world.lines(["ls", "latest"]);
    assert!(lines.iter().any(|line| line.ends_with("tree/two\\nlines")), "{lines:?}");
}

#[test]
fn a_listing_is_sorted_as_restics() {
    let world = World::new();
    for (name, size) in [("tree/b.txt", 3), ("tree/a.zip", 2000), ("tree/sub/c.txt", 20), ("tree/none", 3)] {
        world.write(name, vec![b'x'; size]);
    }
    world.backup(["tree"]);
    let restic = |arguments: &[&str]| {
        let next = std::env::var_os("BACKSTAY_TEST_RESTIC_NEXT").expect("BACKSTAY_TEST_RESTIC_NEXT names restic 0.18");
        let output = std::process::Command::new(next)
            .args(["--no-cache", "-q", "-r"])
            .arg(world.path("repository"))
            .args(arguments)
            .env("RESTIC_PASSWORD", crate::common::PASSWORD)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect::<Vec<_>>()
    };
    for by in ["name", "size", "time", "mtime", "extension"] {
        for reverse in [&[][..], &["--reverse"]] {
            let arguments = [&["ls", "latest", "--sort", by], reverse].concat();
            assert_eq!(world.lines(&arguments), restic(&arguments), "{arguments:?}");
        }
    }
    fails_with(world.command(["ls", "latest", "--sort", "colour"]), 1, &["colour", "extension"]);
}

#[test]
fn several_folders_are_listed_and_sizes_are_shown_for_people() {
    let world = World::with_snapshot();
    world.write("tree/large", vec![0; 3 << 20]);
    world.backup(["tree"]);
    let (docs, deep) = (world.shown("tree/docs"), world.shown("tree/docs/deep"));
    let lines = world.lines(["ls", "latest", &deep, &docs]);
    assert_eq!(lines, [docs.clone(), deep.clone(), format!("{deep}/note"), format!("{docs}/readme")]);
    let text = world.lines(["ls", "-l", "--human-readable", "latest"]).join("\n");
    assert!(text.lines().any(|line| line.contains(" 3.000 MiB ") && line.ends_with("/large")), "{text}");
}

#[test]
fn a_listing_for_ncdu_is_one_tree_of_arrays() {
    let world = World::with_snapshot();
    let listing = |arguments: &[&str]| -> serde_json::Value {
        let output = world.run([&["-q", "ls", "--ncdu", "latest"], arguments].concat()).success();
        serde_json::from_str(&stdout(output.get_output())).unwrap()
    };
    /// Every path in the tree, a folder with a slash at its end.
    fn paths(folder: &serde_json::Value, above: &str, found: &mut Vec<String>) {
        let (first, rest) = folder.as_array().unwrap().split_first().unwrap();
        let name = first["name"].as_str().unwrap();
        let own = if name == "/" { "/".to_owned() } else { format!("{above}{name}/") };
        for below in rest {
            if below.is_array() {
                paths(below, &own, found);
            } else {
                found.push(format!("{own}{}", below["name"].as_str().unwrap()));
            }
        }
        found.push(own);
    }
    let all = listing(&[]);
    assert_eq!((&all[0], &all[1]), (&1.into(), &2.into()));
    assert!(all[2]["tree"].is_string());
    let mut found = Vec::new();
    paths(&all[3], "", &mut found);
    let mut lines = world.lines(["ls", "latest"]);
    lines.push("/".to_owned());
    let mut bare: Vec<String> = found
        .iter()
        .map(|path| if path == "/" { path.clone() } else { path.trim_end_matches('/').to_owned() })
        .collect();
    bare.sort();
    lines.sort();
    assert_eq!(bare, lines);
    // The folders above what is listed hold it together.
    let docs = world.shown("tree/docs");
    let mut found = Vec::new();
    paths(&listing(&[&docs])[3], "", &mut found);
    assert!(found.contains(&format!("{docs}/readme")) && found.contains(&format!("{docs}/deep/")), "{found:?}");
    assert!(!found.iter().any(|path| path.ends_with("hello.txt") || path.ends_with("note")), "{found:?}");
    fails_with(world.command(["ls", "--ncdu", "latest", "--json"]), 1, &["--ncdu"]);
    fails_with(world.command(["ls", "--ncdu", "latest", "--sort", "size"]), 1, &["--sort"]);
}
