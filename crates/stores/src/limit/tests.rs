use super::*;
use crate::LocalStore;

/// A clock that only moves when somebody sleeps.
#[derive(Debug, Default)]
struct Sleeper(Mutex<Duration>);

impl Clock for Sleeper {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

fn seconds(duration: Duration) -> u64 {
    // Rounding at the nanosecond.
    (duration + Duration::from_millis(1)).as_secs()
}

#[test]
fn bytes_cost_time_in_each_direction_for_itself() {
    let clock = Arc::new(Sleeper::default());
    let bandwidth = Bandwidth::with_clock(Some(1000), Some(500), Arc::clone(&clock) as _);
    assert!(bandwidth.is_limited());
    assert_eq!(seconds(bandwidth.up(3000)), 3);
    // Whoever comes next waits for the one before, too: the limit is for all together.
    assert_eq!(seconds(bandwidth.up(1000)), 4);
    assert_eq!(seconds(bandwidth.down(1000)), 2);
    clock.sleep(Duration::from_secs(3));
    assert_eq!(seconds(bandwidth.up(1000)), 2);
    // Time that nobody used does not add up to a burst.
    clock.sleep(Duration::from_secs(1000));
    assert_eq!(seconds(bandwidth.up(1000)), 1);
    assert_eq!(seconds(bandwidth.down(1000)), 2);
}

#[test]
fn no_limit_costs_nothing() {
    let bandwidth = Bandwidth::default();
    assert!(!bandwidth.is_limited());
    assert_eq!(bandwidth.up(usize::MAX) + bandwidth.down(usize::MAX), Duration::ZERO);
}

#[test]
fn a_store_takes_as_long_as_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Sleeper::default());
    let bandwidth = Arc::new(Bandwidth::with_clock(Some(100), Some(1000), Arc::clone(&clock) as _));
    let store = LimitedStore::new(Arc::new(LocalStore::new(folder.path())), bandwidth);
    let body = vec![7; 5000];
    let id = Id::of(&body);
    store.put(ObjectKind::Pack, &id, &body).unwrap();
    assert_eq!(seconds(clock.now()), 50);
    store.get(ObjectKind::Pack, &id, None).unwrap();
    assert_eq!(seconds(clock.now()), 55);
    store.get(ObjectKind::Pack, &id, Some(0..1000)).unwrap();
    assert_eq!(seconds(clock.now()), 56);
    store.list(ObjectKind::Pack).unwrap();
    store.size(ObjectKind::Pack, &id).unwrap();
    assert_eq!(seconds(clock.now()), 56);
}
