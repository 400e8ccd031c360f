//! The C library's allocator, told to give large pieces back to the system at once.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::sync::Once;

    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
    }

    /// `M_MMAP_THRESHOLD` of `malloc.h`.
    const MMAP_THRESHOLD: i32 = -3;
    /// Bytes from which a piece is the system's own.
    const LARGE: i32 = 256 << 10;

    /// Otherwise the first pack that is freed makes the allocator keep all that are smaller than it, in an arena for each thread.
    pub(crate) fn give_large_pieces_back() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: it takes two numbers and may be called at any time, by any thread; that it refuses changes nothing.
            unsafe { mallopt(MMAP_THRESHOLD, LARGE) };
        });
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) use glibc::give_large_pieces_back;

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn give_large_pieces_back() {}
