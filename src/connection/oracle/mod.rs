//! What must hold whatever a client sends, for the fuzzers and for
//! `cargo test`.
//!
//! Each check takes the bytes of a client and panics if the code under test
//! breaks a promise. `tests/fuzz` feeds the checks with what libFuzzer comes up
//! with; the tests here feed them with the seeds in `tests/seeds` and with
//! mutations of these, the same in every run.
//!
//! Whatever judges an answer is written here a second time, from the RFCs and
//! without a look at the code under test: two programs that share a function
//! share its mistakes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a check that does not hold panics"
)]

mod answers;
mod chunks;
mod exchange;
mod head;
#[cfg(test)]
mod mutation;

pub(crate) use self::chunks::check as chunks;
#[cfg(fuzzing)]
pub(crate) use self::exchange::check_on_stage as exchange;
pub(crate) use self::head::check as head;

/// RFC 9110 section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Where `sought` begins in `bytes`.
fn find(bytes: &[u8], sought: &[u8]) -> Option<usize> {
    bytes
        .windows(sought.len())
        .position(|window| window == sought)
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};
    use std::path::PathBuf;
    use std::{env, fs};

    use smol::future::FutureExt;

    use super::mutation::Mutations;
    use super::{chunks, exchange, head};

    /// With another one the tests try other bytes.
    const SEED: u64 = 0x6865_6972_6c6f_6f6d;

    /// The seeds of a fuzzer, with their names.
    fn seeds(fuzzer: &str) -> Vec<(String, Vec<u8>)> {
        // Not `env!`: the tests may run on another machine than they were
        // built on.
        let root = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from);
        let directory = root.join("tests/seeds").join(fuzzer);
        let mut seeds: Vec<_> = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read(&path).unwrap())
            })
            .collect();
        // The order of a directory is another one on another machine.
        seeds.sort();
        assert!(!seeds.is_empty(), "{fuzzer} has no seeds");
        seeds
    }

    /// The seeds themselves, and then so many mutations of them.
    fn inputs(fuzzer: &str, mutations: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
        let seeds = seeds(fuzzer);
        let parents = seeds.iter().map(|(_, bytes)| bytes.clone()).collect();
        let mutations = Mutations::new(SEED, parents).take(mutations);
        let mutations = mutations
            .enumerate()
            .map(|(number, bytes)| (format!("mutation {number} of seed {SEED:#x}"), bytes));
        seeds.into_iter().chain(mutations)
    }

    fn report(name: &str, bytes: &[u8]) -> ! {
        panic!("{name}: the bytes were \"{}\"", bytes.escape_ascii());
    }

    fn check_all(fuzzer: &str, mutations: usize, check: fn(&[u8])) {
        for (name, bytes) in inputs(fuzzer, mutations) {
            if panic::catch_unwind(|| check(&bytes)).is_err() {
                report(&name, &bytes);
            }
        }
    }

    #[test]
    fn heads_mean_the_same_in_pieces_and_what_the_rfc_says() {
        check_all("head", 15_000, head);
    }

    #[test]
    fn chunks_are_decoded_as_the_reference_does() {
        check_all("chunks", 15_000, chunks);
    }

    #[test]
    fn connections_may_leave_between_any_two_bytes() {
        smol::block_on(async {
            for (name, bytes) in seeds("connection") {
                let mut scripts: Vec<Vec<u8>> = (0..bytes.len())
                    .step_by(3)
                    .map(|at| {
                        let mut script = bytes.clone();
                        script.insert(at, exchange::LEAVE);
                        script
                    })
                    .collect();
                scripts.push(
                    bytes
                        .iter()
                        .flat_map(|byte| [*byte, exchange::LEAVE])
                        .collect(),
                );
                for script in scripts {
                    let check = AssertUnwindSafe(exchange::check(&script));
                    if check.catch_unwind().await.is_err() {
                        report(&name, &script);
                    }
                }
            }
        });
    }

    #[test]
    fn connections_keep_their_promises_whatever_comes() {
        smol::block_on(async {
            for (name, bytes) in inputs("connection", 1_500) {
                let check = AssertUnwindSafe(exchange::check(&bytes));
                if check.catch_unwind().await.is_err() {
                    report(&name, &bytes);
                }
            }
        });
    }
}
