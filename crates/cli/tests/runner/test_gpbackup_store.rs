//! A repository behind a storage plugin of gpbackup: `-r gpbackup:CONFIG`.

use std::path::{Path, PathBuf};

use assert_cmd::Command;

use crate::common::{PASSWORD, World, fails_with, stderr, stdout};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../adapters/gpbackup/examples/folder_plugin").canonicalize().unwrap()
}

/// A world whose plugin is the example, which keeps its objects in the folder `behind`.
fn world() -> World {
    let world = World::empty();
    configure(&world, &example());
    world.make_tree();
    world
}

fn configure(world: &World, plugin: &Path) {
    let behind = world.path("behind");
    world.write("c.yaml", format!("executablepath: {}\noptions:\n  folder: {}\n", plugin.display(), behind.display()));
}

/// Our program on the repository behind the plugin; the configuration is named relative to the working folder.
fn behind(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    command.env("BACKSTAY_REPOSITORY", "gpbackup:c.yaml");
    // The system's Python starts sooner than a wrapper that looks for another one, and it is started many times.
    command.env("PATH", format!("/usr/bin:/bin:{}", std::env::var("PATH").unwrap_or_default()));
    command
}

fn succeed(world: &World, arguments: &[&str]) -> (String, String) {
    let assert = behind(world, arguments).assert().success();
    (stdout(assert.get_output()), stderr(assert.get_output()))
}

fn snapshots(world: &World) -> usize {
    succeed(world, &["snapshots", "--json"]).0.lines().count()
}

/// The number that `init` told.
fn number(told: &str) -> String {
    told.split("gpbackup.rebuild=").last().unwrap()[..7].to_owned()
}

/// Timestamps behind the plugin of a class of objects.
fn timestamps(world: &World, class: char) -> usize {
    let days = std::fs::read_dir(world.path("behind/backups")).unwrap();
    let days = days.map(|day| day.unwrap()).filter(|day| day.file_name().to_str().unwrap().ends_with(class));
    days.map(|day| std::fs::read_dir(day.path()).unwrap().count()).sum()
}

/// Bytes of the files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let one = |entry: std::fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { size(&entry.path()) } else { metadata.len() }
    };
    entries.map(one).sum()
}

#[test]
fn a_repository_lives_behind_the_example_plugin_from_init_to_a_copy_that_restic_verifies() {
    let world = world();
    let assert = behind(&world, &["snapshots"]).assert().code(10);
    assert!(stderr(assert.get_output()).contains("there is no repository at gpbackup:"));
    let (_, told) = succeed(&world, &["init"]);
    assert!(told.contains("the number of this repository") && told.contains("Keep its password safe"), "{told}");
    succeed(&world, &["backup", "tree"]);
    world.write(
        "tree/large",
        (0..600_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<_>>(),
    );
    succeed(&world, &["backup", "tree"]);
    std::fs::remove_file(world.path("tree/large")).unwrap();
    world.write("tree/later", "later\n");
    let (_, told) = succeed(&world, &["backup", "tree"]);
    assert!(!told.contains("warning"), "{told}");
    assert_eq!(snapshots(&world), 3);
    succeed(&world, &["check", "--read-data"]);
    succeed(&world, &["restore", "latest", "--target", "out"]);
    let restored = world.path("out").join(world.shown("tree/later").trim_start_matches('/'));
    assert_eq!(std::fs::read_to_string(restored).unwrap(), "later\n");

    // The local state says of the locks that nobody is at work.
    let before = size(&world.path("behind"));
    succeed(&world, &["forget", "--keep-last", "1", "--prune"]);
    let after = size(&world.path("behind"));
    assert!(before > 2_400_000 && after < 100_000, "room is given back: {before} {after}");
    assert_eq!(timestamps(&world, '2'), 1, "one generation of snapshots is left");
    succeed(&world, &["check", "--read-data"]);

    let mut command = world.command(["init", "--restic-chunker"]);
    command.assert().success();
    let mut command = world.command(["copy", "--from-repo", "gpbackup:c.yaml"]);
    command.env("BACKSTAY_FROM_PASSWORD", PASSWORD).assert().success();
    world.restic(["check", "--read-data"]).assert().success();
    let listed = world.restic(["ls", "latest"]).assert().success();
    assert!(stdout(listed.get_output()).contains("tree/later"));
    // And into it, by the same way.
    let mut command = behind(&world, &["copy", "--from-repo", "repository"]);
    command.env("BACKSTAY_FROM_PASSWORD", PASSWORD).assert().success();
    succeed(&world, &["check", "--read-data"]);
}

#[test]
fn a_lost_state_folder_is_made_again_from_the_number() {
    let world = world();
    let number = number(&succeed(&world, &["init"]).1);
    succeed(&world, &["backup", "tree"]);
    succeed(&world, &["backup", "tree", "--tag", "second"]);
    std::fs::remove_dir_all(world.path("state")).unwrap();
    let assert = behind(&world, &["snapshots"]).assert().code(10);
    let told = stderr(assert.get_output());
    assert!(told.contains("no journal") && told.contains("gpbackup.rebuild=NUMBER"), "{told}");
    let rebuild = format!("gpbackup.rebuild={number}");
    let (lines, told) = succeed(&world, &["snapshots", "--json", "-o", &rebuild]);
    assert_eq!(lines.lines().count(), 2);
    assert!(told.contains("rebuilt from"), "{told}");
    succeed(&world, &["check", "--read-data"]);
    succeed(&world, &["forget", "--keep-last", "1", "--prune"]);
    succeed(&world, &["backup", "tree"]);
    succeed(&world, &["check", "--read-data"]);
    fails_with(behind(&world, &["snapshots", "-o", &rebuild]), 1, &["a journal already"]);
}

#[test]
fn append_only_limits_and_options_hold_as_for_every_store() {
    let world = world();
    succeed(&world, &["init"]);
    succeed(&world, &["--append-only", "--limit-upload", "100000", "-o", "gpbackup.connections=1", "backup", "tree"]);
    fails_with(behind(&world, &["--append-only", "forget", "latest", "-q"]), 3, &["--append-only"]);
    fails_with(behind(&world, &["-o", "gpbackup.colour=red", "snapshots"]), 1, &["colour", "connections"]);
    fails_with(behind(&world, &["-r", "gpbackup:none.yaml", "snapshots"]), 1, &["none.yaml", "No such file"]);
}

#[test]
fn passwords_of_the_configuration_are_in_no_message_and_stay_nowhere() {
    let world = world();
    let plugin = "#!/bin/sh\nif [ \"$1\" = backup_data ]; then echo refused >&2; exit 1; fi\nexec PLUGIN \"$@\"\n";
    let plugin = plugin.replace("PLUGIN", example().to_str().unwrap());
    // Another process writes it: while one of ours had it open for writing, no thread could start it.
    let mut writer = std::process::Command::new("/bin/sh");
    let writer = writer.args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""]).arg(world.path("p")).arg(plugin);
    assert!(writer.status().unwrap().success());
    configure(&world, &world.path("p"));
    let text = std::fs::read_to_string(world.path("c.yaml")).unwrap();
    world.write("c.yaml", text + "  aws_secret_access_key: hush-hush\n");
    let assert = behind(&world, &["--retry-time", "0", "init"]).assert().code(1);
    let told = stderr(assert.get_output());
    assert!(told.contains("refused") || told.contains("unknown"), "{told}");
    assert!(!told.contains("hush"), "{told}");
    let found = std::process::Command::new("grep").args(["-r", "hush"]).arg(world.path("state")).output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), "");
}

/// A repository inside a repository: our own plugin for gpbackup is the plugin.
#[test]
fn our_own_plugin_can_be_the_one() {
    let world = world();
    let plugin = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay_gpbackup_plugin");
    assert!(plugin.exists(), "build it first: cargo build --workspace --bins");
    let text = format!(
        "executablepath: {}\noptions:\n  repository: {}\n  password_file: {}\n  agent: off\n",
        plugin.display(),
        world.path("inner").display(),
        world.path("inner-password").display()
    );
    world.write("c.yaml", text);
    world.write("inner-password", "of the inner one\n");
    succeed(&world, &["init"]);
    succeed(&world, &["backup", "tree"]);
    succeed(&world, &["backup", "tree"]);
    succeed(&world, &["forget", "--keep-last", "1", "--prune"]);
    succeed(&world, &["check", "--read-data"]);
    let mut inner = world.command(["check", "--read-data", "-r"]);
    inner.arg(world.path("inner")).env("BACKSTAY_PASSWORD", "of the inner one").assert().success();
}
