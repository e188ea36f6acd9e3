//! The server on hyper with an allocator that counts. It is a program of its own
//! because counting costs time.

use std::alloc::System;

use heirloom_bench_http::server;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> std::io::Result<()> {
    server::report_on_request(|| {
        let stats = ALLOCATOR.stats();
        stats.allocations + stats.reallocations
    });
    server::hyper::run()
}
