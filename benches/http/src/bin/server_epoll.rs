//! The bare epoll loop, as it is measured for everything but allocations.

fn main() -> std::io::Result<()> {
    heirloom_bench_http::server::epoll::run()
}
