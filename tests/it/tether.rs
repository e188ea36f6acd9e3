//! Ends with the tests, and takes along the services that they leave behind.
//!
//! Tests that are interrupted or killed cannot clean up after themselves. This
//! program reads from them which process groups live (`+1234`) and which are
//! gone (`-1234`); the end of its input is the end of the tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test program may panic"
)]

use std::collections::BTreeSet;
use std::io;

use rustix::process::{Pid, Signal, kill_process_group};

fn main() {
    let mut groups = BTreeSet::new();
    for line in io::stdin().lines() {
        let line = line.expect("the tests write lines");
        let (sign, group) = line.split_at(1);
        let group: i32 = group.parse().expect("a process group is a number");
        match sign {
            "+" => groups.insert(group),
            _ => groups.remove(&group),
        };
    }
    for group in groups {
        let _ = kill_process_group(Pid::from_raw(group).unwrap(), Signal::KILL);
    }
}
