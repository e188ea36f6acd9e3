//! Chance, the same in every run.

use serde_json::{Value, json};

/// An endless sequence of numbers that look random, the same for the same seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Chance(seed)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // A counter times an odd constant, with its bits mixed.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        ((mixed ^ (mixed >> 32)) % bound as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Something like this message, of a sense or of none.
    pub(crate) fn garble(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut parts = packet.splitn(2, |byte| *byte == b'\n');
        let mut message: Value = serde_json::from_slice(parts.next().unwrap()).unwrap();
        let mut behind = parts.next().map(<[u8]>::to_vec);
        match self.below(8) {
            0..=3 => self.spoil(&mut message),
            4 => {
                // A member is missing, or there is one more.
                let name = *self.pick(&["message", "version", "listeners", "batch", "room"]);
                if let Some(object) = message.as_object_mut()
                    && object.remove(name).is_none()
                {
                    object.insert(name.to_owned(), self.junk());
                }
            }
            5 => behind = Some(vec![b' '; self.below(70_000)]),
            _ => {}
        }
        let mut bytes = message.to_string().into_bytes();
        if let Some(behind) = behind {
            bytes.push(b'\n');
            bytes.extend(behind);
        }
        for _ in 0..self.below(3) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at + 1),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = b' ',
                3 => {
                    let words = ["\n", "{", "}", "[", "\"", ",", "\0", "9", "-", "\\u0000"];
                    bytes.splice(at..at, self.pick(&words).bytes());
                }
                _ => bytes.extend_from_within(at..),
            }
        }
        // What a socket takes at once.
        bytes.truncate(140_000);
        bytes
    }

    /// Puts something else in the place of a member, at any depth.
    fn spoil(&mut self, value: &mut Value) {
        let mut members: Vec<&mut Value> = match value {
            Value::Object(object) => object.values_mut().collect(),
            Value::Array(array) => array.iter_mut().collect(),
            _ => Vec::new(),
        };
        match members.len() {
            0 => *value = self.junk(),
            number => {
                let member = self.below(number);
                self.spoil(members[member]);
            }
        }
    }

    fn junk(&mut self) -> Value {
        let junk = [
            Value::Null,
            json!(true),
            json!(false),
            json!(0),
            json!(1),
            json!(-1),
            json!(2),
            json!(253),
            json!(u64::MAX),
            json!(u32::MAX),
            json!(i64::MIN),
            json!(1e300),
            json!(0.5),
            json!(""),
            json!("x\r\n\u{1b}\u{e9}"),
            json!("127.0.0.1:0"),
            json!("unix:/nowhere"),
            json!("x".repeat(70_000)),
            json!([]),
            json!({}),
            json!([[[[[[]]]]]]),
            json!({ "requested": "127.0.0.1:0", "bound": "127.0.0.1:1" }),
            json!([{ "peer": "127.0.0.1:1", "slot": 0, "served": true, "waited_ms": 0, "bytes": 0 }]),
            json!("welcome"),
            json!("listeners"),
            json!("serve"),
            json!("connections"),
            json!("handed_over"),
            json!("publish"),
            json!("proven"),
            json!("get_listener"),
            json!("ready"),
            json!("adopted"),
            json!("published"),
            json!("failed"),
        ];
        self.pick(&junk).clone()
    }
}
