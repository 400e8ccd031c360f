use clap::CommandFactory;

use crate::common::{World, fails_with, stderr, stdout};

/// The whole command line reference: a help text cannot change unseen.
#[test]
fn the_reference_is_as_recorded() {
    let mut root = backstay_cli::args::Cli::command().term_width(100).version("VERSION");
    root.build();
    let mut text = root.clone().render_long_help().to_string();
    for command in root.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let name = command.get_name().to_owned();
        text.push_str(&format!("\n\n=== {name} ===\n\n{}", command.render_long_help()));
    }
    let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("cli_reference", text);
    });
}

#[test]
fn help_goes_to_standard_output() {
    let world = World::empty();
    for arguments in [&["--help"][..], &["-h"], &["help"], &["backup", "--help"], &["help", "restore"]] {
        let assert = world.run(arguments).success();
        assert!(stdout(assert.get_output()).contains("Usage: backstay"), "{arguments:?}");
        assert_eq!(stderr(assert.get_output()), "");
    }
}

#[test]
fn a_typo_gets_one_line_with_a_hint_and_status_1() {
    let world = World::empty();
    fails_with(world.command(["snapshot"]), 1, &["snapshot", "snapshots", "backstay --help"]);
    fails_with(world.command(["backup", "--exlude", "x"]), 1, &["--exlude", "--exclude", "backstay backup --help"]);
    fails_with(world.command(["restore", "latest"]), 1, &["--target", "backstay restore --help"]);
    fails_with(
        world.command(["restore", "latest", "--target", "x", "--overwrite", "maybe"]),
        1,
        &["maybe", "if-changed"],
    );
    fails_with(world.command(["snapshots", "--latest", "0"]), 1, &["--latest", "0"]);
    fails_with(world.command(["backup", "--exclude-larger-than", "much", "x"]), 1, &["much", "100M"]);
    fails_with(world.command(["-q", "-v", "snapshots"]), 1, &["--quiet", "--verbose"]);
    fails_with(world.bare(), 1, &["backstay --help"]);
}
