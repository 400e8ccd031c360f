use crate::common::{World, fails_with, stderr};

/// Puts a lock into the repository as another host would hold it, refreshed `age` seconds ago.
fn lock(world: &World, host: &str, age: i64) {
    use backstay_repository::lock::LockInfo;
    use backstay_repository::{Repository, gotext};
    let store = std::sync::Arc::new(backstay_stores::LocalStore::new(world.path("repository")));
    let repository = Repository::open(store, crate::common::PASSWORD.as_bytes()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let time = backstay_core::Time { seconds: i64::try_from(now).unwrap() - age, nanoseconds: 0 };
    let info = LockInfo {
        time: time.into(),
        exclusive: true,
        hostname: host.to_owned(),
        username: "somebody".to_owned(),
        pid: 4_194_303,
        uid: 0,
        gid: 0,
    };
    repository.save_unpacked(backstay_core::ObjectKind::Lock, &gotext::to_json(&info).unwrap()).unwrap();
}

fn locks(world: &World) -> usize {
    std::fs::read_dir(world.path("repository/locks")).unwrap().count()
}

#[test]
fn what_somebody_holds_stays_and_what_nobody_holds_goes() {
    let world = World::with_snapshot();
    lock(&world, "elsewhere", 60);
    lock(&world, "elsewhere", 31 * 60);
    lock(&world, &backstay_repository::lock::host_name(), 1);
    let summary = world.objects(["unlock"]).pop().unwrap();
    assert_eq!((&summary["removed"], &summary["kept"]), (&2.into(), &1.into()));
    fails_with(world.command(["snapshots"]), 11, &["locked", "elsewhere", "--retry-lock"]);
    let output = world.run(["unlock"]).success();
    assert!(stderr(output.get_output()).contains("process 4194303 of somebody on host elsewhere"));
    assert_eq!(locks(&world), 1);
    world.run(["unlock", "--remove-all"]).success();
    assert_eq!(locks(&world), 0);
    world.run(["snapshots"]).success();
}

#[test]
fn a_conflict_says_how_to_remove_an_abandoned_lock() {
    let world = World::with_snapshot();
    lock(&world, "elsewhere", 31 * 60);
    fails_with(world.command(["snapshots"]), 11, &["backstay unlock"]);
    assert_eq!(world.lines(["unlock"]), ["Removed 1 lock"]);
    world.run(["snapshots"]).success();
}

#[test]
fn a_lock_that_cannot_be_read_is_named_and_goes_only_with_all() {
    let world = World::with_snapshot();
    let name = "a".repeat(64);
    world.write(&format!("repository/locks/{name}"), "garbage");
    fails_with(world.command(["snapshots"]), 1, &[&name, "backstay unlock --remove-all"]);
    let output = world.run(["unlock"]).code(1);
    assert!(stderr(output.get_output()).contains(&name));
    assert_eq!(locks(&world), 1);
    world.run(["unlock", "--remove-all"]).success();
    assert_eq!(locks(&world), 0);
}
