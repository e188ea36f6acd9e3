//! The parts of the bench: each takes its figures and puts them into the
//! report. A peer that fails is skipped, and said to be.

pub mod allocations;
pub mod idle;
pub mod instructions;
pub mod rate;
pub mod syscalls;
