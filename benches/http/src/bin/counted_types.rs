//! http-types alone with an allocator that counts; prints how much it has
//! counted at the end.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> anyhow::Result<()> {
    heirloom_bench_http::types::run()?;
    let stats = ALLOCATOR.stats();
    println!("{}", stats.allocations + stats.reallocations);
    Ok(())
}
