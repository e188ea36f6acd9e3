//! The server on heirloom, as it is measured for everything but allocations.

fn main() -> heirloom::Result<()> {
    heirloom_bench_http::server::heirloom::run()
}
