//! What the example plugins announce, in both ways of moving data, is sound to restic and comes back from restic, from us, and
//! through the plugin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::{Place, Restic, append, assert_same, below, count, plant_tree, succeed, top};

/// The contract knows neither hard links made by the host nor parts of a second.
const CONTRACT: [&str; 2] = ["--whole-seconds", "--no-hard-links"];

fn definition(module: &str, options: &str) -> String {
    let examples = top().join("adapters/bareos/python/examples");
    format!("python3:module_path={}:module_name={module}:{options}", examples.display())
}

fn restored_by_restic(place: &Place, restic: Restic, turn: &str) -> PathBuf {
    let target = place.path(&format!("restored {turn} by restic {restic:?}"));
    place.restic(restic, ["restore".as_ref(), "latest".as_ref(), "--target".as_ref(), target.as_os_str()]);
    target
}

fn assert_comes_back_every_way(place: &Place, tree: &Path, turn: &str) {
    place.assert_sound();
    assert_same(tree, &below(&place.restore("latest", &format!("restored {turn}")), tree), &CONTRACT);
    for restic in Restic::BOTH {
        assert_same(tree, &below(&restored_by_restic(place, restic, turn), tree), &CONTRACT);
    }
    let target = place.path(&format!("restored {turn} through the plugin"));
    succeed(place.backstay(["restore", "latest", "--through-plugin", "--target"]).arg(&target));
    assert_same(tree, &below(&target, tree), &CONTRACT);
}

fn plugin_lists_a_tree(io: &str) {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    let definition = definition("tree_lister", &format!("path={}:io={io}", tree.display()));
    let first = place.back_up(["--plugin", &definition]);
    assert!(count(&first, "total_files_processed") > 200, "{first}");
    assert_comes_back_every_way(&place, &tree, "first");

    append(&tree.join("folder/text"), b"A line more.\n");
    fs::remove_file(tree.join("empty")).unwrap();
    fs::write(tree.join("new"), "new").unwrap();
    place.back_up(["--plugin", &definition]);
    assert_same(&tree, &below(&place.restore("latest", "restored again"), &tree), &CONTRACT);

    // An incremental job's snapshot is whole by itself, also when those that it builds on are forgotten and pruned.
    // Times that the plugin sees have no parts of a second: a folder that changes twice within one is unchanged to it.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    append(&tree.join("folder/text"), b"And another one.\n");
    fs::remove_file(tree.join("new")).unwrap();
    fs::write(tree.join("newer"), "newer").unwrap();
    let third = place.back_up(["--plugin", &definition, "--level", "incremental", "--accurate"]);
    assert!(count(&third, "files_new") < 10 && count(&third, "files_unmodified") > 100, "{third}");
    place.ours(["forget", "--keep-last", "1", "--prune"]);
    assert_eq!(place.snapshots().len(), 1);
    assert_comes_back_every_way(&place, &tree, "last");
}

#[test]
fn a_tree_that_a_plugin_lists_comes_back_with_direct_io() {
    plugin_lists_a_tree("core");
}

#[test]
fn a_tree_that_a_plugin_lists_comes_back_with_io_in_the_plugin() {
    plugin_lists_a_tree("plugin");
}

#[test]
fn tables_of_a_database_and_a_folder_come_back_beside_a_tree() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    let files = place.path("files");
    fs::create_dir_all(files.join("sub folder")).unwrap();
    fs::write(files.join("sub folder/invoice"), "One hundred").unwrap();
    fs::write(files.join("empty"), "").unwrap();
    let database = place.path("shop.db");
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db: db.executescript(sys.argv[2])";
    let rows = "CREATE TABLE article (id INTEGER PRIMARY KEY, name TEXT, price REAL); CREATE TABLE \"odd \"\"name/\" (a BLOB);\
         INSERT INTO article VALUES (1, 'It''s a chair', 49.5), (2, 'a table', NULL); INSERT INTO \"odd \"\"name/\" VALUES (x'00ff');";
    succeed(Command::new("/usr/bin/python3").args(["-c", script]).arg(&database).arg(rows));

    let definition =
        definition("sqlite_and_folder", &format!("database={}:folder={}", database.display(), files.display()));
    place.back_up(["--plugin".as_ref(), definition.as_ref(), tree.as_os_str()]);
    place.assert_sound();
    let restored = place.restore("latest", "restored");
    assert_same(&tree, &below(&restored, &tree), &[]);
    assert_same(&files, &below(&restored, &files), &CONTRACT);
    let table = restored.join("@SQLITE/shop.db/article.sql");
    let text = fs::read_to_string(&table).unwrap();
    assert!(text.contains("'It''s a chair'"), "{text}");

    let theirs = restored_by_restic(&place, Restic::Old, "by itself");
    assert_same(&restored.join("@SQLITE"), &theirs.join("@SQLITE"), &[]);
    assert_same(&files, &below(&theirs, &files), &CONTRACT);

    let target = place.path("restored through the plugin");
    succeed(place.backstay(["restore", "latest", "--through-plugin", "--target"]).arg(&target));
    assert_same(&files, &below(&target, &files), &CONTRACT);
    assert_same(&restored.join("@SQLITE/shop.db"), &target.join("@SQLITE/shop.db"), &["--not-the-top"]);

    // The text is the database: it makes the same tables again.
    let script = "import sqlite3, sys\ndb = sqlite3.connect(':memory:')\nfor path in sys.argv[1:]: db.executescript(open(path).read())\n\
         print(db.execute('SELECT * FROM article ORDER BY id').fetchall())";
    let rows = succeed(Command::new("/usr/bin/python3").args(["-c", script]).arg(&table));
    assert_eq!(rows.trim(), "[(1, \"It's a chair\", 49.5), (2, 'a table', None)]");
}
