use crate::common::{World, fails_with};

#[test]
fn every_shell_gets_a_script_that_names_our_commands() {
    let world = World::empty();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = world.lines(["completions", shell]).join("\n");
        assert!(text.contains("snapshots") && text.contains("through-plugin"), "{shell}");
    }
}

#[test]
fn the_bash_script_is_valid_bash() {
    let world = World::empty();
    world.write("script", world.lines(["completions", "bash"]).join("\n"));
    assert_cmd::Command::new("bash").arg("-n").arg(world.path("script")).assert().success();
}

#[test]
fn an_unknown_shell_is_refused_with_the_known_ones() {
    let world = World::empty();
    fails_with(world.command(["completions", "tcl"]), 1, &["tcl", "bash", "zsh"]);
}
