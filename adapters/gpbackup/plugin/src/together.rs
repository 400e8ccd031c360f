//! What one thread does for all who wait for it.

use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

/// Something that one thread at a time works on. Where that fails, it has failed for all who waited for it from its beginning
/// on: a store that is down for minutes keeps each of hundreds waiting twice at most, not as often as others came before him.
#[derive(Debug)]
pub(crate) struct Together<T, E> {
    state: Mutex<T>,
    /// When the work began that failed last.
    failed: Mutex<Option<(Instant, E)>>,
}

impl<T: Default, E> Default for Together<T, E> {
    fn default() -> Self {
        Self { state: Mutex::default(), failed: Mutex::new(None) }
    }
}

impl<T, E: Clone> Together<T, E> {
    /// Waits for its turn and works.
    ///
    /// # Errors
    /// The work's, or that of somebody who was waited for.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> Result<R, E>) -> Result<R, E> {
        self.with_since(Instant::now(), work)
    }

    fn with_since<R>(&self, came: Instant, work: impl FnOnce(&mut T) -> Result<R, E>) -> Result<R, E> {
        let mut state = self.state.lock();
        if let Some((begun, error)) = &*self.failed.lock()
            && *begun > came
        {
            return Err(error.clone());
        }
        let begun = Instant::now();
        work(&mut state).inspect_err(|error| *self.failed.lock() = Some((begun, error.clone())))
    }

    /// What there is, whatever became of the work on it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock()
    }

    /// The same; none while somebody works on it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.state.try_lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_has_failed_for_all_who_waited_from_its_beginning_on_and_for_nobody_later() {
        let together = Together::<u32, &str>::default();
        let tried = |result| {
            move |times: &mut u32| {
                *times += 1;
                result
            }
        };
        let early = Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(together.with_since(Instant::now(), tried(Err("down"))), Err("down"));
        assert_eq!(together.with_since(early, tried(Ok(()))), Err("down"));
        assert_eq!(*together.lock(), 1);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(together.with(tried(Ok(()))), Ok(()));
        assert_eq!(*together.lock(), 2);
    }
}
