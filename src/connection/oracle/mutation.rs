//! Mutations of seeds: a small fuzzer without feedback.

use std::collections::BTreeSet;

/// What a byte-wise mutation would hardly come up with.
const WORDS: [&[u8]; 41] = [
    b"\xfb",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff",
    b"GET / HTTP/1.1\r\n",
    b"POST /echo HTTP/1.1\r\n",
    b"POST /stream HTTP/1.1\r\n",
    b"HEAD /chunks HTTP/1.0\r\n",
    b"GET /large HTTP/1.1\r\n",
    b"POST /some HTTP/1.1\r\n",
    b"POST /keep HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Host: a\r\n",
    b"Host: a\r\n\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\nUpgrade: x\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"\xc3\xa9",
    b"%2e%2e/",
    b"[::1]",
    b"\xff",
    b"\xfe",
    b"\xfd",
    b"\xfc",
];

/// An endless sequence of mutations, the same for the same seed.
pub(super) struct Mutations {
    state: u64,
    parents: Vec<Vec<u8>>,
}

impl Mutations {
    pub(super) fn new(seed: u64, parents: Vec<Vec<u8>>) -> Self {
        Mutations {
            state: seed,
            parents,
        }
    }

    /// A number below `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        // A counter times an odd constant, with its bits mixed: every seed
        // will do, 0 included.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        ((mixed ^ (mixed >> 32)) % bound.max(1) as u64) as usize
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
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(from..from, word.iter().copied());
            }
            4 => {
                let word = WORDS[self.below(WORDS.len())];
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
