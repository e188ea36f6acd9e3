//! How many descriptors this process, which is all tests at once, can open.

use std::sync::Once;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::say_skipped;

/// How many it can open; as many as it is allowed, up to a few thousand.
pub(crate) fn possible_descriptors() -> u64 {
    const ENOUGH: u64 = 8192;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.unwrap_or(u64::MAX).min(ENOUGH);
        let current = limit.current.unwrap_or(u64::MAX).max(wanted);
        let limit = Rlimit {
            current: Some(current),
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Whether a test can have so many descriptors for itself, or for a process
/// that it starts; if not, says that it is skipped.
pub(crate) fn can_open(number: u64) -> bool {
    // Another test may run beside it.
    let is_possible = possible_descriptors() >= 2 * number;
    if !is_possible {
        say_skipped(&format!("{number} descriptors, and so does the next test"));
    }
    is_possible
}
