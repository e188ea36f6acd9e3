//! The servers that are measured, and what they agree on with the driver.
//!
//! Each server is a function in [`server`] and a program of a few lines in
//! `src/bin`; those that are also measured for allocations have a second
//! program that differs only in its allocator. [`types`] is no server, but what
//! one cannot do without.

pub mod server;
pub mod types;

/// What every server answers to every request, but for the two paths below.
pub const BODY: &str = "Hello, world!\n";

/// Where the body of a request comes back.
pub const ECHO: &str = "/echo";

/// Where [`LARGE_BYTES`] come, a [`CHUNK`] at a time, and without being
/// announced: the server does not know beforehand how much there is.
pub const LARGE: &str = "/large";

pub const LARGE_BYTES: usize = 1024 * 1024;

/// What a file or another server might give at once.
pub static CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// The media type of [`BODY`], which every server sends.
pub const MEDIA_TYPE: &str = "text/plain; charset=utf-8";

/// The variable that tells a server that its clients pipeline. Only hyper has
/// something to set then.
pub const PIPELINING: &str = "HEIRLOOM_BENCH_PIPELINING";

/// What a server prints on its standard output before its address, once a
/// connection to it would not be refused.
pub const ANNOUNCEMENT: &str = "listening on ";
