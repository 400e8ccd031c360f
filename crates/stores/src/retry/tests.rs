use super::*;
use crate::LocalStore;
use crate::trouble::{DEFAULT_RETRY_TIME, Trouble};

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

/// A store that fails as it is told to, then works; a failed `put` may have been carried out all the same.
#[derive(Debug)]
struct Failing {
    inner: LocalStore,
    errors: Mutex<Vec<StoreError>>,
    calls: Mutex<u32>,
    after: bool,
}

impl Failing {
    fn fail<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        *self.calls.lock().unwrap() += 1;
        let next = self.errors.lock().unwrap().pop();
        match next {
            Some(error) => {
                if self.after {
                    // Whatever came of it, its answer is lost.
                    let _ = work();
                }
                Err(error)
            }
            None => work(),
        }
    }
}

impl Store for Failing {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn create(&self) -> Result<(), StoreError> {
        self.fail(|| self.inner.create())
    }
    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        self.fail(|| self.inner.put(kind, id, body))
    }
    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.fail(|| self.inner.get(kind, id, range))
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.fail(|| self.inner.list(kind))
    }
    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.fail(|| self.inner.size(kind, id))
    }
    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.fail(|| self.inner.delete(kind, id))
    }
}

fn error(trouble: Trouble) -> StoreError {
    let row = trouble.row();
    let error = StoreError::new(row.kind, "read", "place", row.advice);
    StoreError { retry: trouble.retry(None), ..error }
}

struct Bench {
    store: RetryStore,
    failing: Arc<Failing>,
    clock: Arc<Sleeper>,
    told: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

fn bench(errors: Vec<StoreError>, after: bool, total: Duration) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let failing = Arc::new(Failing {
        inner: LocalStore::new(folder.path()),
        errors: Mutex::new(errors),
        calls: Mutex::new(0),
        after,
    });
    let clock = Arc::new(Sleeper::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&told);
    let notice: Notice = Arc::new(move |text| into.lock().unwrap().push(text.to_owned()));
    let store = RetryStore::new(Arc::clone(&failing) as _, total, Some(notice)).with_clock(Arc::clone(&clock) as _);
    Bench { store, failing, clock, told, _folder: folder }
}

#[test]
fn a_minute_of_disturbance_is_waited_out_and_told_once() {
    let bench = bench(Vec::new(), false, DEFAULT_RETRY_TIME);
    bench.store.list(ObjectKind::Key).unwrap();
    for _ in 0..2 {
        *bench.failing.errors.lock().unwrap() = vec![error(Trouble::Unavailable); 8];
        let before = bench.clock.now();
        bench.store.put(ObjectKind::Key, &Id::of(b"x"), b"x").unwrap();
        let waited = bench.clock.now() - before;
        assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(120), "{waited:?}");
    }
    let told = bench.told.lock().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("disturbed") && told[0].contains("900 s"), "{told:?}");
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    for trouble in
        [Trouble::Missing, Trouble::Denied, Trouble::NoBucket, Trouble::WrongCredentials, Trouble::Clock, Trouble::Tls]
    {
        let bench = bench(vec![error(trouble); 3], false, DEFAULT_RETRY_TIME);
        let failed = bench.store.get(ObjectKind::Key, &Id::of(b"x"), None).unwrap_err();
        assert_eq!(failed, error(trouble));
        assert_eq!(*bench.failing.calls.lock().unwrap(), 1, "{trouble:?}");
        assert_eq!(bench.clock.now(), Duration::ZERO);
    }
}

#[test]
fn the_time_is_limited_and_the_error_says_how_often() {
    let total = Duration::from_secs(120);
    let bench = bench(vec![error(Trouble::Unavailable); 1000], false, total);
    bench.store.retrying.answered.store(true, Ordering::Relaxed);
    let failed = bench.store.list(ObjectKind::Pack).unwrap_err();
    let waited = bench.clock.now();
    assert!(waited <= total && waited > total / 2, "{waited:?}");
    let calls = *bench.failing.calls.lock().unwrap();
    assert!(failed.text.contains(&format!("tried {calls} times")), "{failed}");
    assert_eq!(failed.retry, Retry::Never, "nobody above tries once more");
}

#[test]
fn no_time_means_one_attempt() {
    let bench = bench(vec![error(Trouble::Unavailable); 5], false, Duration::ZERO);
    assert_eq!(bench.store.list(ObjectKind::Key).unwrap_err().text, error(Trouble::Unavailable).text);
    assert_eq!(*bench.failing.calls.lock().unwrap(), 1);
}

#[test]
fn a_store_that_never_answered_is_given_up_soon() {
    let bench = bench(vec![error(Trouble::Unreachable); 1000], false, DEFAULT_RETRY_TIME);
    bench.store.list(ObjectKind::Key).unwrap_err();
    assert!(bench.clock.now() <= FIRST_ANSWER_TIME);
    // Once it has answered, the whole time holds.
    bench.failing.errors.lock().unwrap().clear();
    bench.store.list(ObjectKind::Key).unwrap();
    *bench.failing.errors.lock().unwrap() = vec![error(Trouble::Unreachable); 1000];
    let before = bench.clock.now();
    bench.store.list(ObjectKind::Key).unwrap_err();
    assert!(bench.clock.now() - before > Duration::from_secs(600));
}

#[test]
fn the_pause_that_the_store_asks_for_is_kept() {
    let wait = Duration::from_secs(77);
    let asks = StoreError { retry: Retry::Throttled(Some(wait)), ..error(Trouble::Throttled) };
    let bench = bench(vec![asks], false, DEFAULT_RETRY_TIME);
    bench.store.list(ObjectKind::Key).unwrap();
    assert_eq!(bench.clock.now(), wait);
}

#[test]
fn pauses_differ_so_that_not_all_come_back_at_once() {
    let pauses: std::collections::HashSet<Duration> = (0..20).map(|_| shaken(Duration::from_secs(8))).collect();
    assert!(pauses.len() > 1);
    assert!(pauses.iter().all(|pause| (4..=8).contains(&pause.as_secs())));
}

#[test]
fn a_config_whose_answer_was_lost_is_our_own() {
    let bench = bench(vec![error(Trouble::Cut)], true, DEFAULT_RETRY_TIME);
    bench.store.put(ObjectKind::Config, &Id::default(), b"ours").unwrap();

    // Somebody else's is not.
    *bench.failing.errors.lock().unwrap() = vec![error(Trouble::Cut)];
    let taken = bench.store.put(ObjectKind::Config, &Id::default(), b"other").unwrap_err();
    assert_eq!(taken.kind, StoreErrorKind::Exists);
    assert_eq!(bench.store.get(ObjectKind::Config, &Id::default(), None).unwrap(), b"ours");
}

#[test]
fn a_pause_ends_when_nobody_wants_to_wait_any_longer_and_there_is_no_other_one() {
    let mut bench = bench(vec![error(Trouble::Unavailable); 1000], false, DEFAULT_RETRY_TIME);
    bench.store.retrying.answered.store(true, Ordering::Relaxed);
    let clock = Arc::clone(&bench.clock);
    let patience = Duration::from_secs(60);
    bench.store = bench.store.with_cancelled(Arc::new(move || clock.now() >= patience));
    let failed = bench.store.list(ObjectKind::Pack).unwrap_err();
    assert!(bench.clock.now() < patience + LOOK, "{:?}", bench.clock.now());
    let calls = *bench.failing.calls.lock().unwrap();
    let words = format!("{}; interrupted before attempt {}", error(Trouble::Unavailable).text, calls + 1);
    assert_eq!((failed.text, failed.retry), (words, Retry::Never));
    // What comes later, as giving up a lock, is tried once.
    bench.store.delete(ObjectKind::Lock, &Id::of(b"x")).unwrap_err();
    assert_eq!(*bench.failing.calls.lock().unwrap(), calls + 1);
    assert!(bench.clock.now() < patience + LOOK);
}
