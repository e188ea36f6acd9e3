//! Bytes on their way in or out.

/// A window of bytes over memory that is initialised once and used again.
///
/// Invariant: `start <= end <= memory.len()`.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn new(memory: Vec<u8>) -> Self {
        Buffer {
            memory,
            start: 0,
            end: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes held, oldest first.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Drops the oldest `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for new bytes; [`Self::commit`] says how many were put there.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.end..]
    }

    pub(super) fn commit(&mut self, count: usize) {
        self.end = (self.end + count).min(self.memory.len());
    }

    /// Makes room for at least `count` new bytes.
    pub(super) fn reserve(&mut self, count: usize) {
        if self.memory.len() - self.end >= count {
            return;
        }
        self.memory.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let needed = self.end + count;
        if self.memory.len() < needed {
            self.memory.resize(needed.max(2 * self.memory.len()), 0);
        }
    }

    /// Whether there is room for at least `count` new bytes, after it was made
    /// as long as no more than `most` bytes are held.
    pub(super) fn finds_room(&mut self, count: usize, most: usize) -> bool {
        if self.room().len() < count && self.len() + count <= most {
            self.reserve(count);
        }
        self.room().len() >= count
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.append_all([bytes]);
    }

    /// Appends one piece after the other, which makes room only once.
    pub(super) fn append_all<const N: usize>(&mut self, pieces: [&[u8]; N]) {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.reserve(length);
        let mut room = self.room();
        for piece in pieces {
            let (place, rest) = room.split_at_mut(piece.len());
            place.copy_from_slice(piece);
            room = rest;
        }
        self.commit(length);
    }

    /// Inserts `bytes` after the oldest `position` bytes.
    pub(super) fn insert(&mut self, position: usize, bytes: &[u8]) {
        self.append(bytes);
        let from = (self.start + position).min(self.end - bytes.len());
        self.memory[from..self.end].rotate_right(bytes.len());
    }

    pub(super) fn has_no_memory(&self) -> bool {
        self.memory.is_empty()
    }

    /// The memory, for the next to use.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        let mut buffer = Buffer::new(vec![0; 8]);
        buffer.append(b"abcdef");
        buffer.consume(4);
        buffer.append(b"ghijk");
        assert_eq!(buffer.bytes(), b"efghijk");
        buffer.insert(2, b"12");
        assert_eq!(buffer.bytes(), b"ef12ghijk");
        buffer.consume(usize::MAX);
        assert!(buffer.is_empty());
        assert!(buffer.finds_room(8, 8));
        buffer.append_all([b"abc", b"", b"defghi"]);
        assert!(!buffer.finds_room(20, 20));
        assert!(buffer.finds_room(20, 100));
        assert_eq!(buffer.bytes(), b"abcdefghi");
    }
}
