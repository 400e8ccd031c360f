use crate::common::World;

#[test]
fn version_says_which_program_this_is() {
    let world = World::empty();
    let lines = world.lines(["version"]);
    assert!(lines[0].starts_with(concat!("backstay ", env!("CARGO_PKG_VERSION"))), "{lines:?}");
    assert_eq!(world.lines(["--version"]), [concat!("backstay ", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn version_needs_no_repository_and_speaks_json() {
    let world = World::empty();
    let objects = world.objects(["version"]);
    assert_eq!(objects[0]["message_type"], "version");
    assert_eq!(objects[0]["version"], env!("CARGO_PKG_VERSION"));
}
