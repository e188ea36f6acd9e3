//! Either process is killed before and after each message of the handoff and
//! each effect of the lifecycle.
//!
//! The list of these moments is in `src/handoff/kill.md`, where a test of the
//! library has put it; what is seen here is compared with what stands there,
//! and written there with `HEIRLOOM_BLESS=1`.

mod point;
mod story;
mod visitors;

use std::any::Any;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::{env, slice, thread};

use self::point::{Point, Section, bless};
use crate::kit::{BLESS, possible_descriptors};

/// How many kills of a group are under way at a time: most of a story is
/// waiting for the end of a probation, and it has up to a hundred clients.
fn at_a_time() -> u64 {
    // Another group may be under way, too.
    (possible_descriptors() / 2 / 110).clamp(1, 6)
}

/// Defines the tests, and the list that tells whether they are about
/// everything.
macro_rules! groups {
    ($($test:ident: $section:pat,)+) => {
        $(
            #[test]
            fn $test() {
                kill_at_each(|point| matches!(point.section, $section));
            }
        )+

        #[test]
        fn each_moment_belongs_to_one_test() {
            for point in Point::all() {
                let tests = [$(matches!(point.section, $section)),+];
                let tests = tests.into_iter().filter(|is_its| *is_its).count();
                assert_eq!(tests, 1, "{point}");
                assert!(story::Scenario::of(&point).is_some(), "nothing brings it about: {point}");
            }
        }
    };
}

groups! {
    messages_of_the_predecessor: Section::FromPredecessor,
    messages_of_the_successor: Section::FromSuccessor,
    effects_in_the_predecessor: Section::InPredecessor,
    effects_in_the_successor: Section::InSuccessor,
    effects_in_a_process_on_its_own: Section::OnItsOwn,
}

fn kill_at_each(is_meant: impl Fn(&Point) -> bool) {
    let points: Vec<Point> = Point::all().into_iter().filter(is_meant).collect();
    assert!(!points.is_empty());
    let left = Mutex::new(points.iter());
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_a_time() {
            scope.spawn(|| {
                while let Some(point) = next(&left) {
                    let outcome = catch_unwind(|| story::tell(point, is_blessing()));
                    told.lock().unwrap().push((point, outcome));
                }
            });
        }
    });
    let mut failures = Vec::new();
    let mut seen = Vec::new();
    for (point, outcome) in told.into_inner().unwrap() {
        match outcome {
            Ok(outcome) => seen.push((point, outcome)),
            Err(panic) => failures.push(format!("{point}: {}", words_of(&*panic))),
        }
    }
    if is_blessing() {
        bless(&seen);
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

fn is_blessing() -> bool {
    env::var_os(BLESS).is_some()
}

fn next<'a>(left: &Mutex<slice::Iter<'a, Point>>) -> Option<&'a Point> {
    left.lock().unwrap().next()
}

/// What a panic says.
fn words_of(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    let words = owned.or_else(|| panic.downcast_ref::<&str>().copied());
    words.unwrap_or("it failed")
}
