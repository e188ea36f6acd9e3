//! The servers that are measured, and what they agree on with the driver.
//!
//! Each server is a function in [`server`] and a program of a few lines in
//! `src/bin`; those that are also measured for allocations have a second
//! program that differs only in its allocator.

pub mod server;

/// What every server answers to every request.
pub const BODY: &str = "Hello, world!\n";

/// The media type of [`BODY`], which every server sends.
pub const MEDIA_TYPE: &str = "text/plain; charset=utf-8";

/// What a server prints on its standard output before its address, once a
/// connection to it would not be refused.
pub const ANNOUNCEMENT: &str = "listening on ";
