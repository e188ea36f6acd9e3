//! http-types alone, as it is measured for everything but allocations.

fn main() -> anyhow::Result<()> {
    heirloom_bench_http::types::run()
}
