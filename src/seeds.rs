//! The seeds of the fuzzers in `tests/fuzz`, and mutations of them: a small
//! fuzzer without feedback, for `cargo test`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, fs, panic};

/// With another one the tests try other bytes.
const SEED: u64 = 0x6865_6972_6c6f_6f6d;

/// The seeds of a fuzzer, with their names.
pub(crate) fn seeds(fuzzer: &str) -> Vec<(String, Vec<u8>)> {
    // Not `env!`: the tests may run on another machine than they were built on.
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

/// The seeds themselves, and then so many mutations of them, with `words` that
/// a byte-wise mutation would hardly come up with.
pub(crate) fn inputs(
    fuzzer: &str,
    words: &'static [&'static [u8]],
    mutations: usize,
) -> impl Iterator<Item = (String, Vec<u8>)> {
    let seeds = seeds(fuzzer);
    let parents = seeds.iter().map(|(_, bytes)| bytes.clone()).collect();
    let mutations = Mutations::new(parents, words).take(mutations);
    let mutations = mutations
        .enumerate()
        .map(|(number, bytes)| (format!("mutation {number} of seed {SEED:#x}"), bytes));
    seeds.into_iter().chain(mutations)
}

/// Checks all of [`inputs`].
pub(crate) fn check_all(
    fuzzer: &str,
    words: &'static [&'static [u8]],
    mutations: usize,
    check: fn(&[u8]),
) {
    for (name, bytes) in inputs(fuzzer, words, mutations) {
        if panic::catch_unwind(|| check(&bytes)).is_err() {
            report(&name, &bytes);
        }
    }
}

/// Tells for which bytes a check does not hold.
pub(crate) fn report(name: &str, bytes: &[u8]) -> ! {
    panic!("{name}: the bytes were \"{}\"", bytes.escape_ascii());
}

/// An endless sequence of numbers that look random, the same in every run.
pub(crate) struct Chance {
    state: u64,
}

impl Default for Chance {
    fn default() -> Self {
        Chance { state: SEED }
    }
}

impl Chance {
    /// A number below `bound`, or 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // A counter times an odd constant, with its bits mixed: every seed
        // will do, 0 included.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        ((mixed ^ (mixed >> 32)) % bound.max(1) as u64) as usize
    }
}

/// An endless sequence of mutations, the same in every run.
struct Mutations {
    chance: Chance,
    parents: Vec<Vec<u8>>,
    words: &'static [&'static [u8]],
}

impl Mutations {
    fn new(parents: Vec<Vec<u8>>, words: &'static [&'static [u8]]) -> Self {
        Mutations {
            chance: Chance::default(),
            parents,
            words,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.chance.below(bound)
    }

    fn parent(&mut self) -> Vec<u8> {
        let number = self.below(self.parents.len());
        self.parents[number].clone()
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let from = self.below(bytes.len() + 1);
        let to = (from + self.below(12)).min(bytes.len());
        match self.below(8) {
            0 => drop(bytes.drain(from..to)),
            1 => {
                let copy = bytes[from..to].to_vec();
                bytes.splice(from..from, copy);
            }
            2 | 3 => {
                let word = self.words[self.below(self.words.len())];
                bytes.splice(from..from, word.iter().copied());
            }
            4 => {
                let word = self.words[self.below(self.words.len())];
                bytes.splice(from..to, word.iter().copied());
            }
            5 => {
                let other = self.parent();
                let at = self.below(other.len());
                bytes.truncate(from);
                bytes.extend(&other[at..]);
            }
            6 => {
                let bit = self.below(8);
                if let Some(byte) = bytes.get_mut(from) {
                    *byte ^= 1 << bit;
                }
            }
            _ => {
                // Packets, the more the better.
                let places: BTreeSet<usize> = (0..4).map(|_| self.below(bytes.len() + 1)).collect();
                for place in places.into_iter().rev() {
                    bytes.insert(place, 0xff);
                }
            }
        }
    }
}

impl Iterator for Mutations {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.parent();
        for _ in 0..=self.below(4) {
            self.mutate(&mut bytes);
        }
        Some(bytes)
    }
}
