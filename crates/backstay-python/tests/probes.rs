//! The project's probe plugins against the real worker: the reference trace, both ways of reading, bad plugins.

mod common;

use common::{backup, probe_definition, restore};

#[test]
fn the_reference_trace_of_a_minimal_backup_and_restore_holds() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let definition = probe_definition("probe_trace", &format!("log={}", log.display()));
    let options = format!("log={}:", log.display());
    let outcome = backup(&definition).good();
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        format!(
            "constructor\nparse_plugin_definition('{options}')\nhandle_plugin_event(16)\nhandle_plugin_event(3)\n\
             parse_plugin_definition('{options}')\nstart_backup_file\nplugin_io OPEN\nplugin_io READ\n\
             plugin_io CLOSE\nget_acl\nget_xattr\nend_backup_file\nhandle_plugin_event(4)\nhandle_plugin_event(2)\n"
        )
    );
    assert_eq!((outcome.saved.len(), outcome.end().announced, outcome.announced), (1, 1, 1));

    std::fs::remove_file(&log).unwrap();
    let outcome = restore(&definition, &outcome.saved, folder.path()).good();
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        format!(
            "constructor\nparse_plugin_definition('{options}')\nstart_restore_file('{definition}')\ncreate_file\n\
             plugin_io OPEN\nset_file_attributes\nplugin_io CLOSE\nset_acl\nset_xattr\nend_restore_file\n\
             handle_plugin_event(2)\n"
        )
    );
    assert_eq!(outcome.restored, [Ok(())]);
    assert!(folder.path().join("probe/trace").exists());
}
