use crate::common::{World, fails_with};

#[test]
fn there_is_a_page_for_each_command() {
    let world = World::empty();
    world.run(["man", "pages/man1"]).success();
    let mut names: Vec<String> = std::fs::read_dir(world.path("pages/man1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.contains(&"backstay.1".to_owned()), "{names:?}");
    for command in ["backup", "restore", "snapshots", "check"] {
        assert!(names.contains(&format!("backstay-{command}.1")), "{names:?}");
    }
    let page = std::fs::read_to_string(world.path("pages/man1/backstay-restore.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("through\\-plugin"), "{page}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let world = World::empty();
    world.write("file", "");
    fails_with(world.command(["man", "file/man"]), 1, &["file/man", "Not a directory"]);
}
