//! The server on bare async-h1, as it is measured for everything but allocations.

fn main() -> std::io::Result<()> {
    heirloom_bench_http::server::async_h1::run()
}
