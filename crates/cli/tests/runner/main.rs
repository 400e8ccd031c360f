//! The tests of the command line, one module for each command, in one program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

mod test_agent;
mod test_backup;
mod test_cache;
mod test_cat;
mod test_check;
mod test_completions;
mod test_copy;
mod test_diff;
mod test_dump;
mod test_estimate;
mod test_exit_status;
mod test_fileset;
mod test_find;
mod test_forget;
mod test_gpbackup_store;
mod test_help;
mod test_hook_plugins;
mod test_init;
mod test_json;
mod test_key;
mod test_ls;
mod test_man;
mod test_merge;
mod test_mount;
mod test_nbdkit;
mod test_password;
mod test_plugin;
mod test_plugin_limits;
mod test_plugin_misbehaviour;
mod test_plugin_sandbox;
mod test_plugins;
mod test_prune;
mod test_repair;
mod test_restore;
mod test_rewrite;
mod test_signals;
mod test_snapshots;
mod test_stats;
mod test_tag;
mod test_unlock;
mod test_version;

#[test]
fn no_test_file_is_forgotten() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runner");
    let text = std::fs::read_to_string(here.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|module| module.starts_with("test_")) {
            assert!(text.contains(&format!("mod {module};\n")), "{name} is not in main.rs");
        }
    }
}

#[test]
fn every_command_has_a_page_and_a_test_file() {
    use clap::CommandFactory;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for command in backstay_cli::args::Cli::command().get_subcommands() {
        let name = command.get_name();
        let page = root.join("../../docs/commands").join(format!("{name}.md"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "PARAMETERS", "EXAMPLES", "LIMITS", "SEE ALSO"] {
            assert!(text.contains(&format!("\n## {heading}\n")), "{name}.md has no {heading}");
        }
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(text.contains(&format!("--{option}")), "{name}.md does not name --{option}");
        }
        assert!(root.join(format!("tests/runner/test_{name}.rs")).exists(), "no tests for {name}");
    }
}
